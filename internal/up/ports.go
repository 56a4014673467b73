package up

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// hostPort is one port of the machine that leads into the mesh.
type hostPort struct {
	Name     string
	Addr     string // host:port
	Workload string // in the room
	Port     int    // there
}

const (
	gatewayName      = "istio-ingressgateway"
	gatewayNamespace = "istio-system"
	gatewayAccount   = "istio-ingressgateway-service-account"
)

// Ports are the host ports by name, with their defaults.
var Ports = map[string]int{"gateway": 8080, "gateway-https": 8443, "opa": 8181, "opa-grpc": 9191}

// notServed names what will have a port but is not there yet.
var notServed = map[string]bool{"console": true, "metrics": true, "traces": true}

// PortNames lists Ports in order.
func PortNames() []string {
	var out []string
	for n := range Ports {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// ParsePort reads NAME=PORT of a flag; "off" is 0.
func ParsePort(arg string) (string, int, error) {
	name, text, ok := strings.Cut(arg, "=")
	if !ok {
		return "", 0, fmt.Errorf("--port %s: want NAME=PORT, for example gateway=9080", arg)
	}
	if notServed[name] {
		return "", 0, fmt.Errorf("--port %s: %s is not served yet", arg, name)
	}
	if _, ok := Ports[name]; !ok {
		return "", 0, fmt.Errorf("--port %s: no port of that name; there are %s", arg, strings.Join(PortNames(), ", "))
	}
	if text == "off" {
		return name, 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("--port %s: want a number from 1 to 65535, or off", arg)
	}
	return name, int(n), nil
}

// listen opens the host ports that the set has a use for.
func listen(set *resource.Set, o Options) ([]hostPort, []*os.File, error) {
	var want []hostPort
	if len(set.Gateways) > 0 {
		want = append(want, hostPort{Name: "gateway", Workload: gatewayName, Port: 8080}, hostPort{Name: "gateway-https", Workload: gatewayName, Port: 8443})
	}
	if opa := opaWorkload(set); opa != "" {
		want = append(want, hostPort{Name: "opa", Workload: opa, Port: 8181}, hostPort{Name: "opa-grpc", Workload: opa, Port: 9191})
	}
	host := o.Address
	if host == "" {
		host = "127.0.0.1"
	}
	var ports []hostPort
	var files []*os.File
	for _, p := range want {
		number, moved := o.Ports[p.Name]
		if !moved {
			number = Ports[p.Name]
		}
		if number == 0 {
			continue
		}
		p.Addr = net.JoinHostPort(host, strconv.Itoa(number))
		l, err := net.Listen("tcp", p.Addr)
		if err != nil {
			return nil, nil, portError(p.Name, p.Addr, number, err)
		}
		f, err := l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			return nil, nil, err
		}
		ports, files = append(ports, p), append(files, f)
	}
	return ports, files, nil
}

func opaWorkload(set *resource.Set) string {
	for _, d := range set.Deployments {
		for _, c := range d.Spec.Spec.Template.Spec.Containers {
			for _, p := range c.Ports {
				if p.ContainerPort == 9191 {
					return d.Name
				}
			}
		}
	}
	return ""
}

func portError(name, addr string, number int, err error) error {
	hint := fmt.Sprintf("move it with --port %s=%d, or leave it out with --port %s=off", name, number+1000, name)
	if errors.Is(err, syscall.EADDRINUSE) {
		who := "another process"
		if h := portHolder(number); h != "" {
			who = h
		}
		return fmt.Errorf("port %d (%s) is taken by %s: %s", number, name, who, hint)
	}
	return fmt.Errorf("port %d (%s) on %s: %w: %s", number, name, addr, err, hint)
}

// portHolder names the process that listens on a TCP port, if this user may
// know.
func portHolder(port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(table)
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		fds, err := os.ReadDir("/proc/" + p.Name() + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name()); err == nil && inodes[to] {
				comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), p.Name())
			}
		}
	}
	return ""
}
