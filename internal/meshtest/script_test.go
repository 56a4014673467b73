package meshtest

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestScripts runs every script of testdata, and asks explain about each of
// their requests: what it says must be what happened.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*/*.mesh")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts (%v)", len(scripts), err)
	}
	for _, path := range scripts {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(path), "testdata/"), ".mesh")
		t.Run(name, func(t *testing.T) { runFile(t, path, agree) })
	}
}
