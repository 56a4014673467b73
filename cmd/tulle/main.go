// Command tulle is the service mesh: see internal/cli for its commands.
package main

import (
	"os"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
