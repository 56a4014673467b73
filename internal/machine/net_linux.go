package machine

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/capture"
)

// Addresses of the room's network.
var (
	podNetwork = netip.MustParsePrefix("10.244.0.0/16")
	// Gateway is the bridge's address: the control plane and the name server.
	Gateway = netip.MustParseAddr("10.244.0.1")
)

const bridgeName = "tulle0"

// netns is a network namespace held open by a file descriptor.
type netns struct {
	fd   int
	link string // our end of its veth pair

	forwards []capture.Forward // in force; guarded by the pod's mu
}

// setupNetwork brings up loopback and the bridge in the room's own namespace.
func setupNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, TxQLen: 1000}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("bridge: %w (is the kernel module bridge there?)", err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: Gateway.AsSlice(), Mask: net.CIDRMask(podNetwork.Bits(), 32)}}
	if err := netlink.AddrAdd(bridge, addr); err != nil {
		return fmt.Errorf("bridge address: %w", err)
	}
	return netlink.LinkSetUp(bridge)
}

// newNetNS makes a namespace with the address, joined to the bridge.
func newNetNS(link string, addr netip.Addr) (*netns, error) {
	fd, err := unshareNet()
	if err != nil {
		return nil, err
	}
	ns := &netns{fd: fd, link: link}
	if err := ns.join(addr); err != nil {
		ns.close()
		return nil, fmt.Errorf("network of %s: %w", addr, err)
	}
	return ns, nil
}

// unshareNet makes a namespace on a thread that is thrown away afterwards.
func unshareNet() (int, error) {
	type result struct {
		fd  int
		err error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ch <- result{0, fmt.Errorf("new network namespace: %w", err)}
			return
		}
		// Ports below 1024 need no privilege in here: applications get none.
		_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		ch <- result{fd, err}
	}()
	r := <-ch
	return r.fd, r.err
}

func (ns *netns) join(addr netip.Addr) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = ns.link, bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.fd)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	return ns.do(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		for _, name := range []string{"lo", "eth0"} {
			l, err := h.LinkByName(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if name == "eth0" {
				ip := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(podNetwork.Bits(), 32)}}
				if err := h.AddrAdd(l, ip); err != nil {
					return fmt.Errorf("address: %w", err)
				}
			}
			if err := h.LinkSetUp(l); err != nil {
				return err
			}
		}
		return h.RouteAdd(&netlink.Route{Gw: Gateway.AsSlice()})
	})
}

// do runs f on a thread inside the namespace. f must not start goroutines
// that need to be there too.
func (ns *netns) do(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer unix.Close(home)
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that Go throws it away instead of letting
		// other goroutines run in a foreign network.
		return fmt.Errorf("leave network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return err
}

// dial connects from inside the namespace.
func (ns *netns) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	err = ns.do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp4", addr)
		return err
	})
	return c, err
}

// listen opens a socket inside the namespace.
func (ns *netns) listen(addr string) (l net.Listener, err error) {
	err = ns.do(func() error {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	return l, err
}

// close lets the namespace go; its end of the pair goes with it.
func (ns *netns) close() {
	if l, err := netlink.LinkByName(ns.link); err == nil {
		_ = netlink.LinkDel(l) // with the namespace it would go anyway, a little later
	}
	unix.Close(ns.fd)
}
