package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hidden first arguments under which the binary re-executes itself.
const (
	InitArg = "__init" // process 1 of the namespaces
	RoomArg = "__room" // what runs the workloads
	ShimArg = "__shim" // the last step before a workload's own program
)

const roomEnv = "TULLE_ROOM"

// handover is what travels from Enter to the room through the environment.
type handover struct {
	Files int // inherited, from descriptor 3 on
	Spec  json.RawMessage
}

// Enter runs this binary again inside fresh namespaces (user, when we are not
// root; mount, network, process, host name, IPC), hands it spec and files
// and waits for it. When this process dies, however that happens, the kernel
// kills what is inside. The end of ctx asks it to stop. It returns the exit
// code.
func Enter(ctx context.Context, spec any, files []*os.File) (int, error) {
	b, err := json.Marshal(spec)
	if err == nil {
		b, err = json.Marshal(handover{len(files), b})
	}
	if err != nil {
		return 1, err
	}
	// PDEATHSIG follows the thread that starts the child: keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", InitArg)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roomEnv+"="+string(b))
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C comes through us, once
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := ctx.Err(); err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, explainClone(err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // gone already: Wait says so
	})
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// explainClone says what forbids namespaces here, and what to do.
func explainClone(err error) error {
	read := func(name string) string {
		b, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		return strings.TrimSpace(string(b))
	}
	switch {
	case os.Geteuid() == 0:
		return fmt.Errorf("create namespaces: %w: this container or service manager forbids it; grant CAP_SYS_ADMIN, or run as an ordinary user where user namespaces are allowed", err)
	case read("kernel.unprivileged_userns_clone") == "0":
		return fmt.Errorf("create namespaces: %w: run once: sudo sysctl -w kernel.unprivileged_userns_clone=1 (or run tulle as root)", err)
	case read("user.max_user_namespaces") == "0":
		return fmt.Errorf("create namespaces: %w: run once: sudo sysctl -w user.max_user_namespaces=15000 (or run tulle as root)", err)
	case read("kernel.apparmor_restrict_unprivileged_userns") == "1":
		return fmt.Errorf("create namespaces: %w: run once: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or run tulle as root)", err)
	}
	return fmt.Errorf("create namespaces: %w: user namespaces are forbidden here (a container's seccomp profile?); run tulle as root", err)
}

// Init is process 1: it starts the room and collects every orphan until the
// room ends; its own end ends everything else.
func Init() int {
	_ = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	// A fresh /proc shows our processes only. Where another container masks parts
	// of /proc the kernel refuses, and the old one serves as well.
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	files, err := RoomSpec(nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tulle:", err)
		return 1
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	attr := &os.ProcAttr{Env: os.Environ(), Files: append([]*os.File{os.Stdin, os.Stdout, os.Stderr}, files...)}
	room, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], RoomArg}, attr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tulle: start:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = room.Signal(s) // ended: the loop below notices
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1
		case pid == room.Pid && status.Exited():
			return status.ExitStatus()
		case pid == room.Pid && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// RoomSpec reads what Enter was given, and its files. None of our children
// inherits the files unless we hand them on.
func RoomSpec(into any) ([]*os.File, error) {
	var h handover
	if err := json.Unmarshal([]byte(os.Getenv(roomEnv)), &h); err != nil {
		return nil, fmt.Errorf("this command is for tulle's own use: %w", err)
	}
	var files []*os.File
	for i := range h.Files {
		unix.CloseOnExec(3 + i)
		files = append(files, os.NewFile(uintptr(3+i), "inherited"))
	}
	if into == nil {
		return files, nil
	}
	return files, json.Unmarshal(h.Spec, into)
}
