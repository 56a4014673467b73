// Package nameserver is a sidecar's DNS proxy: it answers for the hosts of the
// mesh and asks the workload's own name servers for everything else.
package nameserver

import (
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// table is ir.DNS made ready for look-ups. Immutable.
type table struct {
	exact    map[string][]netip.Addr
	wildcard map[string][]netip.Addr // by what follows "*"
	search   []string                // with a dot in front
}

func newTable(d *ir.DNS) *table {
	t := &table{exact: map[string][]netip.Addr{}, wildcard: map[string][]netip.Addr{}}
	for _, n := range d.Names {
		if suffix, ok := strings.CutPrefix(n.Host, "*."); ok {
			t.wildcard["."+suffix] = n.Addresses
		} else {
			t.exact[n.Host] = n.Addresses
		}
	}
	for _, s := range d.Search {
		t.search = append(t.search, "."+s)
	}
	return t
}

// lookup finds a name, in lower case and without a dot at its end. canonical
// differs from it where a resolver has put a suffix of its search list on the
// host of a ServiceEntry: it then saves the resolver the rest of the list.
func (t *table) lookup(name string) (addrs []netip.Addr, canonical string, ok bool) {
	if addrs, ok = t.find(name); ok {
		return addrs, name, true
	}
	for _, s := range t.search {
		host, cut := strings.CutSuffix(name, s)
		if !cut || !strings.Contains(host, ".") { // a short name is a service's, and was not found
			continue
		}
		if addrs, ok = t.find(host); ok && !t.ours(host) {
			return addrs, host, true
		}
	}
	return nil, "", false
}

// ours: services of the cluster are only found by their whole name.
func (t *table) ours(host string) bool {
	for _, s := range t.search {
		if strings.HasSuffix(host, s) {
			return true
		}
	}
	return false
}

// find: exact, then the longest wildcard.
func (t *table) find(name string) ([]netip.Addr, bool) {
	if addrs, ok := t.exact[name]; ok {
		return addrs, true
	}
	for rest := name; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			return nil, false
		}
		if addrs, ok := t.wildcard[rest[i:]]; ok {
			return addrs, true
		}
		rest = rest[i+1:]
	}
}
