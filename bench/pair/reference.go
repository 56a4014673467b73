package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// runReference runs the script with our pair beside its peers and repeats its
// verdict on us in the last line.
func (b *bench) runReference(ctx context.Context) error {
	name, port := "http1", httpPort
	args := []string{b.reference, "--rounds", fmt.Sprint(b.rounds), "--seconds", fmt.Sprint(b.seconds)}
	if b.only == "h2" {
		if !b.pair.http2(h2Port) {
			return &unsupported{"h2: this build forwards HTTP/2 as bytes"}
		}
		name, port = "h2", h2Port
		args = append(args, "--h2")
	}
	args = append(args, "--also", tulle, fmt.Sprintf("http://127.0.0.1:%d/", port), fmt.Sprint(b.pair.client.PID()), fmt.Sprint(b.pair.server.PID()))
	cmd := exec.CommandContext(ctx, "bash", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has children to end
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", b.reference, err)
	}
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 6 && f[0] == "median" && f[1] == tulle {
			fmt.Printf("%s ratio_to_haproxy %s\n", name, f[5])
			return nil
		}
	}
	return fmt.Errorf("%s printed no median for %s", b.reference, tulle)
}
