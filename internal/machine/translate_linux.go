package machine

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/capture"
)

// translate gives replicas without a sidecar what kube-proxy gives them: the
// addresses of services. Called with r.notify held.
func (r *Room) translate() {
	forwards := r.forwards()
	r.mu.Lock()
	var bare []*pod
	for _, p := range r.pods {
		if p.bare.Load() {
			bare = append(bare, p)
		}
	}
	r.mu.Unlock()
	for _, p := range bare {
		if err := p.translate(forwards); err != nil {
			r.opts.Log.Warn("service addresses", "pod", p.spec.Name, "err", err)
		}
	}
}

func (p *pod) translate(forwards []capture.Forward) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil { // its network may be closed
		return nil
	}
	return capture.Translate(p.ns.fd, forwards)
}

// forwards leads every service port to one ready replica.
func (r *Room) forwards() []capture.Forward {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []capture.Forward
	if r.set == nil {
		return nil
	}
	for _, s := range r.set.Services {
		vip, err := netip.ParseAddr(s.Spec.Spec.ClusterIP)
		if err != nil {
			continue
		}
		for _, p := range r.pods {
			if p.spec.Namespace != s.Namespace || !selects(s.Spec.Spec.Selector, p.spec.Labels) || !p.ready.Load() {
				continue
			}
			for _, sp := range s.Spec.Spec.Ports {
				target := p.portNumber(sp.TargetPort)
				if target == 0 {
					target = int(sp.Port)
				}
				out = append(out, capture.Forward{From: netip.AddrPortFrom(vip, uint16(sp.Port)), To: netip.AddrPortFrom(p.addr, uint16(target))})
			}
			break
		}
	}
	return out
}
