// Package opa is the embedded Open Policy Agent: Rego from files, served as
// Envoy's ext_authz v3 and as OPA's REST API.
package opa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/rego"
)

const (
	maxPolicyFile  = 4 << 20
	maxPolicyFiles = 2000
)

// Engine holds the newest good policy. Safe for concurrent use; Load calls must
// not overlap.
type Engine struct {
	path    string // of the decision
	current atomic.Pointer[rego.Policy]
}

// NewEngine returns an engine without policy: every decision is an error
// until Load has succeeded once. path is one such as envoy/authz/allow.
func NewEngine(path string) *Engine { return &Engine{path: path} }

// Load reads policies and data from files and folders and puts them in force.
// On error (with file, line and column) the last good policy stays.
func (e *Engine) Load(paths []string) error {
	modules, data, err := read(paths)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(data)
	if err != nil {
		return err
	}
	p, err := rego.Compile(&ir.Rego{Name: "opa", Query: rego.Query(e.path), Modules: modules, Data: string(doc)})
	if err != nil {
		return err
	}
	e.current.Store(p)
	return nil
}

// Warnings about the policy in force.
func (e *Engine) Warnings() []string {
	if p := e.current.Load(); p != nil {
		return p.Warnings()
	}
	return nil
}

var errNoPolicy = errors.New("no policy is loaded")

// check decides by the policy in force; log may be nil.
func (e *Engine) check(ctx context.Context, log *rego.DecisionLog, r *authz.External) authz.Verdict {
	p := e.current.Load()
	if p == nil {
		return authz.Verdict{Err: errNoPolicy}
	}
	return rego.NewDecider(p, log, decideTimeout).Check(ctx, r)
}

// decideTimeout bounds one decision; callers have shorter ones of their own.
const decideTimeout = 10 * time.Second

// read collects .rego files (tests left out) and data documents.
func read(paths []string) (map[string]string, map[string]any, error) {
	modules, data := map[string]string{}, map[string]any{}
	var files []string
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && path != p && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir // ..data of a ConfigMap: its files are linked beside it
			}
			files = append(files, path)
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if len(files) > maxPolicyFiles {
		return nil, nil, fmt.Errorf("more than %d policy files", maxPolicyFiles)
	}
	sort.Strings(files)
	for _, path := range files {
		base := filepath.Base(path)
		isRego := strings.HasSuffix(base, ".rego") && !strings.HasSuffix(base, "_test.rego")
		isBundle := strings.HasSuffix(base, ".tar.gz")
		isData := base == "data.json" || base == "data.yaml" || base == "data.yml"
		if !isRego && !isData && !isBundle {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, err
		}
		if info.IsDir() {
			continue
		}
		if info.Size() > maxPolicyFile {
			return nil, nil, fmt.Errorf("%s: larger than %d MiB", path, maxPolicyFile>>20)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		if isRego {
			modules[path] = string(b)
			continue
		}
		var doc map[string]any
		if isBundle {
			var found map[string]string
			if found, doc, err = rego.ReadBundle(b); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			for name, text := range found {
				modules[path+name] = text
			}
		} else if doc, err = rego.ParseData(b); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		for k, v := range doc {
			if _, ok := data[k]; ok {
				return nil, nil, fmt.Errorf("%s: data.%s is defined twice", path, k)
			}
			data[k] = v
		}
	}
	if len(modules) == 0 {
		return nil, nil, fmt.Errorf("no .rego file in %v", paths)
	}
	return modules, data, nil
}
