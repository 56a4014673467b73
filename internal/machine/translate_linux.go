package machine

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/capture"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// translate gives every replica what kube-proxy gives it: the addresses of
// services. A sidecar needs them too, for what it passes on unresolved. Called
// with r.notify held.
func (r *Room) translate() {
	forwards := r.forwards()
	r.mu.Lock()
	pods := slices.Collect(maps.Values(r.pods))
	r.mu.Unlock()
	for _, p := range pods {
		if err := p.translate(forwards); err != nil {
			r.opts.Log.Warn("service addresses", "pod", p.spec.Name, "err", err)
		}
	}
}

func (p *pod) translate(forwards []capture.Forward) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ns == nil || p.ctx.Err() != nil { // its network is not there yet, or may be closed
		return nil
	}
	if p.sibling != nil {
		if err := p.sibling.translate(forwards); err != nil {
			return err
		}
	}
	return p.ns.translate(forwards)
}

// translate installs the forwards unless they are in force. The pod's mu is held.
func (ns *netns) translate(forwards []capture.Forward) error {
	if reflect.DeepEqual(ns.forwards, forwards) {
		return nil
	}
	if err := capture.Translate(ns.fd, forwards); err != nil {
		return err
	}
	ns.forwards = forwards
	return nil
}

// forwards leads every service port to all ready replicas, in an order that
// only changes when they do.
func (r *Room) forwards() []capture.Forward {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		return nil
	}
	var pods []*pod
	for _, key := range slices.Sorted(maps.Keys(r.pods)) {
		pods = append(pods, r.pods[key])
	}
	type front struct {
		netip.AddrPort
		udp bool
	}
	taken := map[front]bool{}
	var out []capture.Forward
	for _, s := range r.set.Services {
		vip, err := netip.ParseAddr(s.Spec.Spec.ClusterIP)
		if err != nil || !vip.Is4() { // headless, or a name for another host
			continue
		}
		for _, sp := range s.Spec.Spec.Ports {
			f := capture.Forward{From: netip.AddrPortFrom(vip, uint16(sp.Port)), UDP: sp.Protocol == corev1.ProtocolUDP}
			// Two manifests may claim one address, which a cluster would refuse: the
			// first has it.
			at := front{f.From, f.UDP}
			if sp.Protocol == corev1.ProtocolSCTP || taken[at] {
				continue
			}
			taken[at] = true
			f.To = endpoints(s, sp, pods)
			out = append(out, f)
		}
	}
	return out
}

// endpoints of a service's port are where the ready ones of the pods have it.
func endpoints(s *resource.Service, sp corev1.ServicePort, pods []*pod) []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range pods {
		if p.spec.Namespace != s.Namespace || !selects(s.Spec.Spec.Selector, p.spec.Labels) || !p.ready.Load() {
			continue
		}
		target, ports := sp.TargetPort, p.spec.Ports
		if target == (intstr.IntOrString{}) {
			target = intstr.FromInt32(sp.Port)
		}
		if sp.Protocol == corev1.ProtocolUDP {
			ports = p.spec.UDPPorts
		}
		if n := portNumber(target, ports); n != 0 {
			out = append(out, netip.AddrPortFrom(p.addr, uint16(n)))
		}
	}
	return out
}
