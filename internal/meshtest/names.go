package meshtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"
)

// names is what the name servers answer that sidecars ask for the hosts of DNS
// clusters. Safe for concurrent use.
type names struct {
	mu    sync.Mutex
	known map[string]nameAnswer
}

type nameAnswer struct {
	addrs []netip.Addr
	ttl   time.Duration
	fails bool
}

// nameTTL is how long an answer holds where the script does not say.
const nameTTL = time.Minute

var nameLine = regexp.MustCompile(`^(\S+) (is (\S.*?)|fails)( for (\S+))?$`)

// set takes "NAME is ADDRESS[, ADDRESS…][ for TTL]", "NAME is nowhere" and
// "NAME fails".
func (n *names) set(what string) error {
	m := nameLine.FindStringSubmatch(what)
	if m == nil {
		return fmt.Errorf("want \"name NAME is ADDRESS, …[ for TTL]\", \"name NAME is nowhere\" or \"name NAME fails\"")
	}
	a := nameAnswer{ttl: nameTTL, fails: m[2] == "fails"}
	if !a.fails && m[3] != "nowhere" {
		for _, text := range strings.Split(m[3], ", ") {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return err
			}
			a.addrs = append(a.addrs, addr)
		}
	}
	if m[5] != "" {
		var err error
		if a.ttl, err = time.ParseDuration(m[5]); err != nil {
			return err
		}
	}
	n.put(m[1], a)
	return nil
}

func (n *names) put(name string, a nameAnswer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known[name] = a
}

// Resolve implements upstream.Resolver.
func (n *names) Resolve(_ context.Context, name string) ([]netip.Addr, time.Duration, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.known[name]
	if a.fails || !ok {
		return nil, 0, errors.New("the name server does not answer for " + name)
	}
	return a.addrs, a.ttl, nil
}
