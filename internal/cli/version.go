package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo is what the binary knows of itself.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func known() buildInfo {
	v := buildInfo{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	return v
}

func versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Show the version", Example: "  tulle version -o json", Args: usage(cobra.NoArgs)}
	output := outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		v := known()
		return output(v, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "tulle %s %s %s\n", v.Version, v.Go, v.Platform)
			return err
		})
	}
	return c
}
