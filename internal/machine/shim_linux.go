package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// shimSpec is what the shim sets up before it becomes the program.
type shimSpec struct {
	Argv       []string
	Dir        string
	Hostname   string
	Binds      map[string]string // target → source
	Privileged bool              // the sidecar keeps its capabilities; applications lose all
	Path       string            // PATH to look the program up in
	// Hide is a folder that an application finds empty but for what is in Keep:
	// the run's, where the sockets lie that command the mesh.
	Hide string
	Keep []string
}

const shimEnv = "TULLE_SHIM"

// Shim runs in the new mount and host name namespaces of one process: it puts
// the pod's files in place, gives up every privilege and executes the program.
func Shim() int {
	var s shimSpec
	if err := json.Unmarshal([]byte(os.Getenv(shimEnv)), &s); err != nil {
		return shimFail(err)
	}
	os.Unsetenv(shimEnv)
	runtime.LockOSThread() // capabilities belong to threads; execve takes this one's
	if s.Hostname != "" {
		_ = unix.Sethostname([]byte(s.Hostname)) // cosmetic
	}
	_ = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	for target, source := range s.Binds {
		if real, err := filepath.EvalSymlinks(target); err == nil {
			target = real
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			fmt.Fprintf(os.Stderr, "tulle: %s cannot be put at %s: %v\n", filepath.Base(source), target, err)
		}
	}
	if !s.Privileged && s.Hide != "" {
		if err := hide(s.Hide, s.Keep); err != nil {
			return shimFail(err)
		}
	}
	if s.Dir != "" {
		if err := os.Chdir(s.Dir); err != nil {
			return shimFail(err)
		}
	}
	os.Setenv("PATH", s.Path)
	program, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return shimFail(err)
	}
	if !s.Privileged {
		if err := dropPrivileges(); err != nil {
			return shimFail(err)
		}
	}
	return shimFail(unix.Exec(program, s.Argv, os.Environ()))
}

// hide covers a folder and puts back what is to stay. An application has no
// capability to uncover it.
func hide(dir string, keep []string) error {
	held := map[string]*os.File{}
	for _, path := range keep {
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		held[path] = f
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("hide %s: %w", dir, err)
	}
	for path, f := range held {
		if err := placeFor(path, f); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("show %s: %w", path, err)
		}
	}
	return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, "")
}

// placeFor makes what f can be mounted on.
func placeFor(path string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// dropPrivileges makes sure that an application can neither change its
// redirection nor look into its sidecar, although both have the same user id.
func dropPrivileges() error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		// EINVAL: a capability this kernel does not know.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

func shimFail(err error) int {
	fmt.Fprintln(os.Stderr, "tulle:", err)
	return 127
}
