package up

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Files of a run, in its folder. The folder belongs to one user, who may have
// one run at a time.
const (
	lockFile   = "lock"     // held while any process of the run lives; its text is the outer one's id
	apiSocket  = "api.sock" // JSON API
	execSocket = "exec.sock"
	logFile    = "tulle.log"
	rootFile   = "root-cert.pem"
	upLogFile  = "up.log" // what a detached run prints
)

// stateDir is the folder of this user's run.
func stateDir() string {
	if d := os.Getenv("TULLE_STATE"); d != "" {
		return d
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		if info, err := os.Stat(d); err == nil && info.IsDir() {
			return filepath.Join(d, "tulle")
		}
	}
	return filepath.Join(os.TempDir(), "tulle-"+strconv.Itoa(os.Getuid()))
}

// lockState takes the run's folder, emptied of what a killed run left behind.
func lockState() (string, *os.File, error) {
	dir := stateDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return "", nil, fmt.Errorf("%s must be a folder of yours with mode 0700: remove it, or set TULLE_STATE to another folder", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := takeLock(f); err != nil {
		f.Close()
		return "", nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.Close()
		return "", nil, err
	}
	for _, e := range entries {
		if e.Name() == lockFile || e.Name() == upLogFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			f.Close()
			return "", nil, err
		}
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return "", nil, err
	}
	return dir, f, nil
}

// dyingTime is how long the kernel may take to end a run whose outer process
// was killed.
const dyingTime = 5 * time.Second

func takeLock(f *os.File) error {
	deadline := time.Now().Add(dyingTime)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		pid := holder(f)
		if pid > 0 && syscall.Kill(pid, 0) == nil || time.Now().After(deadline) {
			return fmt.Errorf("tulle up runs already (process %d): see it with \"tulle proxy-status\", end it with \"tulle down\"", pid)
		}
		<-tick.C
	}
}

func holder(f *os.File) int {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

// removeState ends the run's folder. Whoever dies last may still write in it:
// then it is tried again for a moment, and what is left goes with the next start.
func removeState(dir string, lock *os.File) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 50 {
		if os.RemoveAll(dir) == nil {
			break
		}
		<-tick.C
	}
	lock.Close()
}

// running returns the outer process of this user's run, 0 for none.
func running() (int, *os.File) {
	f, err := os.OpenFile(filepath.Join(stateDir(), lockFile), os.O_RDWR, 0)
	if err != nil {
		return 0, nil
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		f.Close()
		return 0, nil
	}
	return holder(f), f
}
