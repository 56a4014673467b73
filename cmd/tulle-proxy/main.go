// Command tulle-proxy is the sidecar alone: what "tulle proxy" runs, without
// the control plane's libraries, so that a sidecar's memory is its own work.
package main

import (
	"fmt"
	"os"

	"github.com/tulle-mesh/tulle/internal/agent"
)

func main() {
	if err := agent.Main(nil); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-proxy:", err)
		os.Exit(1)
	}
}
