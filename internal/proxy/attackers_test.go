package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// Hostile peers are a process of their own, this test binary run again: the
// memory that is measured is the mesh's, and so are the descriptors.
const (
	attackName    = "TULLE_ATTACK"
	attackTarget  = "TULLE_ATTACK_TARGET"
	attackConns   = "TULLE_ATTACK_CONNS"
	attackInPlace = "in place"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(attackName); name != "" {
		os.Exit(attackers(name, os.Getenv(attackTarget), os.Getenv(attackConns)))
	}
	os.Exit(m.Run())
}

// attackers opens the connections of one attack, says what went wrong and that
// the harm is in place, and keeps them until its standard input ends.
func attackers(name, target, conns string) (code int) {
	all := slices.Concat(attacks, http2Attacks)
	i := slices.IndexFunc(all, func(a attack) bool { return a.name == name })
	n, err := strconv.Atoi(conns)
	if i < 0 || err != nil {
		fmt.Println("no such attack:", name, conns)
		return 2
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	open := make([]net.Conn, n)
	for at := range open {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := net.Dial("tcp", target)
			if err == nil {
				open[at] = c // or the collector would close it
				err = all[i].do(c)
			}
			if err != nil {
				fmt.Println(err)
			}
		})
	}
	wg.Wait()
	fmt.Println(attackInPlace)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// begin starts the attack's process and waits until the harm is in place; end
// ends its connections, once.
func (a *attack) begin(t *testing.T, target string, n int) (end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), attackName+"="+a.name, attackTarget+"="+target, attackConns+"="+strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		in.Close()
		io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error("attackers:", err)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != attackInPlace {
		t.Error("attackers:", lines.Text())
	}
	if lines.Text() != attackInPlace {
		t.Error("the attackers ended before the harm was in place")
	}
	return end
}

// affordable is how many connections there may be by the limit of open files,
// at so many in this process for each.
func affordable(t *testing.T, each int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Cur, 1<<20)-min(limit.Cur, 500)) / each
}
