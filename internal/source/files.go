package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// quiet is how long files must stand still before they are read again:
// editors write in several steps.
const quiet = 50 * time.Millisecond

// maxFiles bounds what one folder may hold; beyond it the path is probably
// wrong (a home folder, a file system's root).
const maxFiles = 10_000

// Files reads YAML and JSON from files and folders (recursively) and watches
// them. A folder with a kustomization file is built as kustomize builds it.
// A Local object's manifests are read too.
type Files struct {
	Paths []string
	Log   *slog.Logger
}

// Name implements Source.
func (f *Files) Name() string { return strings.Join(f.Paths, " ") }

// Load reads everything once.
func (f *Files) Load() Update {
	u, _ := f.load(nil)
	return u
}

// content is what one load found, for the next to compare with.
type content struct {
	hash    [32]byte
	watched []string
	last    *resource.Set
}

// Run implements Source. When an object that was good gets errors, its last
// good version stays in force and the problem says so.
func (f *Files) Run(ctx context.Context, emit func(Update)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer w.Close()
	u, now := f.load(nil)
	f.watch(w, now.watched)
	emit(u)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if e.Op != fsnotify.Chmod {
				timer.Reset(quiet)
			}
		case err := <-w.Errors:
			f.Log.Warn("watching files", "err", err)
			timer.Reset(quiet)
		case <-timer.C:
			u, next := f.load(now)
			f.watch(w, next.watched) // an editor's rename ends a watch: set it anew
			if next.hash != now.hash {
				now = next
				emit(u)
			}
		}
	}
}

func (f *Files) watch(w *fsnotify.Watcher, paths []string) {
	for _, p := range paths {
		if err := w.Add(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.Log.Warn("cannot watch", "path", p, "err", err)
		}
	}
}

// load reads the paths and what their Local objects name.
func (f *Files) load(before *content) (Update, *content) {
	r := &reading{seen: map[string]bool{}}
	for _, p := range f.Paths {
		r.path(p)
	}
	set, problems := resource.Parse(r.files)
	followed := map[string]bool{}
	for l := nextLocal(set, before, problems, followed); l != nil; l = nextLocal(set, before, problems, followed) {
		known := len(r.files)
		for _, m := range l.Spec.Manifests {
			r.path(filepath.Join(filepath.Dir(l.Pos.File), m))
		}
		if len(r.files) > known {
			set, problems = resource.Parse(r.files)
		}
	}
	problems = append(r.problems, problems...)
	if before != nil {
		problems = keepLastGood(set, before.last, problems)
	}
	h := sha256.New()
	for _, file := range r.files {
		fmt.Fprintf(h, "%s\x00%d\x00", file.Name, len(file.Data))
		h.Write(file.Data)
	}
	for _, p := range r.problems { // what could not be read is news too
		fmt.Fprintf(h, "%s\x00", p)
	}
	c := &content{watched: r.watched, last: set}
	h.Sum(c.hash[:0])
	return Update{Set: set, Problems: problems}, c
}

// nextLocal is a Local whose manifests were not read yet (a Local may name a
// folder with another). One that just got an error counts as it was: what it
// names must not vanish with it.
func nextLocal(set *resource.Set, before *content, problems []resource.Problem, followed map[string]bool) *resource.Local {
	all := set.Local
	if before != nil {
		all = append(slices.Clip(all), lostLocals(set, before.last, problems)...)
	}
	for _, l := range all {
		if key := l.Namespace + "/" + l.Name; !followed[key] {
			followed[key] = true
			return l
		}
	}
	return nil
}

// reading collects files.
type reading struct {
	files    []resource.File
	watched  []string
	problems []resource.Problem
	seen     map[string]bool
}

func (r *reading) fail(path, reason string) {
	m := resource.Meta{Kind: "File", Pos: resource.NewPositions(path, nil)}
	r.problems = append(r.problems, resource.Problem{Severity: resource.Error, Origin: m.Origin(), Reason: reason})
}

func (r *reading) path(p string) {
	p = filepath.Clean(p)
	if r.seen[p] {
		return
	}
	r.seen[p] = true
	info, err := os.Stat(p)
	switch {
	case err != nil:
		r.fail(p, err.Error())
		r.watched = append(r.watched, filepath.Dir(p))
	case !info.IsDir():
		r.watched = append(r.watched, filepath.Dir(p))
		r.file(p)
	case kustomization(p) != "":
		r.kustomize(p)
	default:
		r.folder(p)
	}
}

func (r *reading) folder(dir string) {
	r.watched = append(r.watched, dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		r.fail(dir, err.Error())
		return
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		info, err := os.Stat(p) // follows links, as ConfigMap mounts have them
		if err != nil || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if info.IsDir() {
			r.path(p)
			continue
		}
		switch filepath.Ext(p) {
		case ".yaml", ".yml", ".json":
			if !r.seen[p] {
				r.seen[p] = true
				r.file(p)
			}
		}
	}
}

func (r *reading) file(p string) {
	if len(r.files) >= maxFiles {
		if len(r.files) == maxFiles {
			r.fail(p, fmt.Sprintf("more than %d files: is this the right folder?", maxFiles))
		}
		return
	}
	if filepath.Ext(p) == ".json" && !looksLikeObject(p) {
		return // data beside the manifests (a JWKS, a package.json)
	}
	info, err := os.Stat(p)
	if err == nil && info.Size() > resource.MaxFileSize {
		r.fail(p, fmt.Sprintf("the file is larger than %d MiB", resource.MaxFileSize>>20))
		return
	}
	data, err := os.ReadFile(p)
	if err != nil {
		r.fail(p, err.Error())
		return
	}
	r.files = append(r.files, resource.File{Name: p, Data: data})
}

func looksLikeObject(p string) bool {
	b, err := os.ReadFile(p)
	return err == nil && strings.Contains(string(b), `"apiVersion"`) && strings.Contains(string(b), `"kind"`)
}

func kustomization(dir string) string {
	for _, n := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
		if _, err := os.Stat(filepath.Join(dir, n)); err == nil {
			return filepath.Join(dir, n)
		}
	}
	return ""
}

// kustomize builds a folder with kustomize's own library. When it only lists
// plain files, those are read as they are, so that positions stay true.
func (r *reading) kustomize(dir string) {
	if plain, ok := plainResources(kustomization(dir)); ok {
		r.watched = append(r.watched, dir)
		for _, p := range plain {
			r.path(filepath.Join(dir, p))
		}
		return
	}
	for _, folder := range kustomizeFolders(dir, map[string]bool{}) {
		_ = filepath.WalkDir(folder, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				r.watched = append(r.watched, p)
			}
			return nil
		})
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		r.fail(kustomization(dir), "kustomize: "+err.Error())
		return
	}
	data, err := built.AsYaml()
	if err != nil {
		r.fail(kustomization(dir), "kustomize: "+err.Error())
		return
	}
	r.files = append(r.files, resource.File{Name: kustomization(dir), Data: data, Built: true})
}
