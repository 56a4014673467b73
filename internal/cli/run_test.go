package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tulle-mesh/tulle/internal/up"
)

// standInRun answers commands as a run of this user would: with these documents,
// by path, beside the workloads.
func standInRun(t *testing.T, workloads []up.WorkloadStatus, pages map[string]any) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle") // t.TempDir's name is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TULLE_STATE", dir)
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err == nil {
		_, err = lock.WriteString("1")
	}
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	serve := func(path string, doc any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(doc) })
	}
	serve("/v1/workloads", workloads)
	for path, doc := range pages {
		serve(path, doc)
	}
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
		lock.Close()
		os.RemoveAll(dir)
	})
}

// tulle runs a command line and returns what it prints and its exit code.
func tulle(t *testing.T, line string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetArgs(strings.Fields(line))
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(t.Context())
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		code = exit.code
	case err != nil:
		code = exitFailed
	}
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), code
}
