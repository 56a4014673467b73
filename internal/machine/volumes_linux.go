package machine

import (
	"fmt"
	"os"
	"path/filepath"
)

func (p *pod) volumeDir(name string) string {
	return filepath.Join(p.room.podDir(p.spec), "volumes", name)
}

// updateVolumes is writeVolumes while the pod runs. An application that waits to
// be started again is started at once when that may have mended it.
func (p *pod) updateVolumes(volumes map[string]volume) error {
	changed, err := p.writeVolumes(volumes)
	if changed {
		select {
		case p.edited <- struct{}{}:
		default:
		}
	}
	return err
}

// writeVolumes brings the volumes' files up to date and reports whether they
// were not. Each file is replaced by a rename, so that a reader never sees half
// of one.
func (p *pod) writeVolumes(volumes map[string]volume) (changed bool, err error) {
	for name, v := range volumes {
		dir := p.volumeDir(name)
		if err := ensureDir(dir); err != nil {
			return changed, err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return changed, err
		}
		for _, e := range entries {
			if _, ok := v.Files[e.Name()]; !ok && v.Files != nil {
				changed = os.Remove(filepath.Join(dir, e.Name())) == nil || changed // a folder the application made stays
			}
		}
		for file, text := range v.Files {
			if file != filepath.Base(file) {
				return changed, fmt.Errorf("volume %s: %q is not a file name", name, file)
			}
			path := filepath.Join(dir, file)
			if old, err := os.ReadFile(path); err == nil && string(old) == text {
				continue
			}
			changed = true
			tmp := path + ".new~"
			if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
				return changed, err
			}
			if err := os.Rename(tmp, path); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}
