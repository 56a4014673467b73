package capture

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Rules are as many as there are different numbers of endpoints, not as many
// as services; endpoints of one service port are never split.
func TestEndpointMaps(t *testing.T) {
	var forwards []Forward
	for i := range 700 {
		f := Forward{From: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)}
		for n := range i % 4 { // a quarter has none
			f.To = append(f.To, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), 8080))
		}
		forwards = append(forwards, f)
	}
	var got []string
	for _, m := range endpointMaps(forwards) {
		got = append(got, fmt.Sprintf("%d in %d", len(m.elements), m.n))
		if len(m.elements) > maxElements {
			t.Errorf("%d elements in one message", len(m.elements))
		}
	}
	if got, want := strings.Join(got, ", "), "175 in 1, 350 in 2, 525 in 3"; got != want {
		t.Errorf("maps: %s; want %s", got, want)
	}
	var numbers int
	for _, m := range endpointMaps(append(forwards, forwards...)) {
		if m.n == 3 {
			numbers++
			if len(m.elements)%3 != 0 {
				t.Errorf("%d elements: a service port is split", len(m.elements))
			}
		}
	}
	if numbers != 2 {
		t.Errorf("%d maps for 1050 elements", numbers)
	}
	if n := len(serviceAddresses(append(forwards, forwards...))); n != 700 {
		t.Errorf("%d service addresses", n)
	}
}

// TestTranslate runs itself again in a network namespace of its own, as root
// of a user namespace, where the kernel judges.
func TestTranslate(t *testing.T) {
	if os.Getenv("TRANSLATE_INSIDE") == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestTranslate$", "-test.v")
		cmd.Env = append(os.Environ(), "TRANSLATE_INSIDE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 || strings.Contains(string(out), "--- SKIP") {
			t.Skipf("this user may not make a network namespace: %v %s", err, out)
		}
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	setUpNetwork(t)
	serve(t, "tcp", "10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080", "127.0.0.1:15001")
	serve(t, "udp", "10.244.0.2:5353", "10.244.0.3:5353")
	api := Forward{From: at("10.96.0.1:80"), To: []netip.AddrPort{at("10.244.0.2:8080"), at("10.244.0.3:8080"), at("10.244.0.4:8080")}}
	names := Forward{From: at("10.96.0.1:53"), UDP: true, To: []netip.AddrPort{at("10.244.0.2:5353"), at("10.244.0.3:5353")}}
	empty := Forward{From: at("10.96.0.2:80")}
	translate := func(forwards ...Forward) {
		t.Helper()
		if err := Translate(0, forwards); err != nil {
			t.Fatal(err)
		}
	}
	translate(api, names, empty)
	check := func(network, to string, mark int, want string) {
		t.Helper()
		if got := answerers(network, to, mark); got != want {
			t.Errorf("%s to %s, mark %d: %s; want %s", network, to, mark, got, want)
		}
	}
	three, refused := "10.244.0.2:8080 10.244.0.3:8080 10.244.0.4:8080", "connection refused"
	check("tcp4", "10.96.0.1:80", 0, three)
	check("udp4", "10.96.0.1:53", 0, "10.244.0.2:5353 10.244.0.3:5353")
	check("tcp4", "10.96.0.2:80", 0, refused) // no endpoint
	check("udp4", "10.96.0.2:80", 0, "operation not permitted")
	check("tcp4", "10.96.0.1:81", 0, refused) // no such port
	check("tcp4", "10.244.0.2:8080", 0, "10.244.0.2:8080")

	// A sidecar gets what the application sends by TCP; its own connections are
	// translated, and so is the application's UDP.
	if err := Apply(Options{OutboundPort: 15001, InboundPort: 15006}); err != nil {
		t.Fatal(err)
	}
	check("tcp4", "10.96.0.1:80", 0, "127.0.0.1:15001")
	check("tcp4", "10.96.0.2:80", 0, "127.0.0.1:15001")
	check("tcp4", "10.96.0.1:80", Mark, three)
	check("tcp4", "10.96.0.2:80", Mark, refused)
	check("udp4", "10.96.0.1:53", 0, "10.244.0.2:5353 10.244.0.3:5353")

	// The last call is in force, whole.
	api.To, empty.To = nil, []netip.AddrPort{at("10.244.0.4:8080")}
	translate(api, empty)
	check("tcp4", "10.96.0.1:80", Mark, refused)
	check("tcp4", "10.96.0.2:80", Mark, "10.244.0.4:8080")

	// More than one set takes, and more rules than a transaction would: were there
	// one for each.
	var many []Forward
	for i := range 1500 {
		many = append(many, Forward{From: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(1 + i>>8), byte(i)}), 80), To: append(empty.To, empty.To...)})
	}
	translate(many...)
	check("tcp4", "10.96.6.219:80", Mark, "10.244.0.4:8080")
}

// setUpNetwork routes services to a device on which nobody listens, and puts
// the endpoints' addresses on this machine.
func setUpNetwork(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth1"})
	if errors.Is(err, unix.EPERM) {
		t.Skip(err) // a user namespace that has no rights even within
	}
	must(t, err)
	for _, name := range []string{"lo", "eth0", "eth1"} {
		l, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
		if name != "eth0" {
			continue
		}
		for i := range byte(4) {
			must(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 244, 0, 1+i), Mask: net.CIDRMask(32, 32)}}))
		}
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 96, 0, 0), Mask: net.CIDRMask(16, 32)}, Scope: netlink.SCOPE_LINK}))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers every connection or datagram with the address that it came to.
func serve(t *testing.T, network string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if network == "udp" {
			pc, err := net.ListenPacket("udp4", addr)
			must(t, err)
			t.Cleanup(func() { pc.Close() })
			go func() {
				b := make([]byte, 1)
				for {
					_, from, err := pc.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = pc.WriteTo([]byte(addr), from) // who waits for it says so
				}
			}()
			continue
		}
		l, err := net.Listen("tcp4", addr)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(addr)) // who waits for it says so
				c.Close()
			}
		}()
	}
}

// answerers are those who answer forty calls, in order, or the first error.
func answerers(network, to string, mark int) string {
	d := net.Dialer{Timeout: 2 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		if mark == 0 {
			return nil
		}
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
		return errors.Join(err, set)
	}}
	seen := map[string]bool{}
	for range 40 {
		by, err := call(&d, network, to)
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			return errno.Error()
		}
		if err != nil {
			return err.Error()
		}
		seen[by] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " ")
}

func call(d *net.Dialer, network, to string) (string, error) {
	c, err := d.Dial(network, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second)) // of an open connection
	if network == "udp4" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}
