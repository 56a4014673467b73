package machine

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// firstProbes come faster than the manifest says, so that a start does not
// wait for periods meant for production.
const firstProbes = 50 * time.Millisecond

// probe watches the pod: startup, then readiness and liveness, from inside its
// network and past the sidecar, as kubelet's rewritten probes do. A pod is
// ready when its sidecar and its application are.
func (p *pod) probe() {
	started := p.spec.Startup == nil
	var ready, live probeState
	tick := time.NewTimer(firstProbes)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		if !started {
			started = p.check(p.spec.Startup) == nil
		}
		if started {
			err := p.proxyReady()
			if err == nil {
				err = p.appReady()
			}
			if ready.update(err == nil, p.spec.Ready, p.ready.Load()) {
				p.setReady(ready.ok)
			}
			if p.ready.Load() && p.spec.Live != nil && live.due(p.spec.Live) && live.update(p.check(p.spec.Live) == nil, p.spec.Live, true) && !live.ok {
				p.room.opts.Log.Warn("liveness probe failed, restarting", "pod", p.spec.Name)
				_ = p.signal(AppContainer, syscall.SIGKILL) // keep starts it again
				live = probeState{}
			}
		}
		next := firstProbes
		if p.ready.Load() {
			next = time.Second
			if s := period(p.spec.Ready); s > 0 {
				next = min(s, time.Second)
			}
		}
		tick.Reset(next)
	}
}

// probeState counts towards a probe's thresholds.
type probeState struct {
	ok     bool
	streak int32
	last   bool
	at     time.Time
}

// update takes a result and reports whether the state is to change.
func (s *probeState) update(result bool, p *corev1.Probe, now bool) bool {
	if result != s.last {
		s.streak, s.last = 0, result
	}
	s.streak++
	need := int32(1)
	if p != nil && !result && now {
		need = p.FailureThreshold
		if need == 0 {
			need = 3
		}
	}
	if p != nil && result {
		need = max(p.SuccessThreshold, 1)
	}
	s.ok = result
	return s.streak >= need
}

func (s *probeState) due(p *corev1.Probe) bool {
	period := time.Duration(p.PeriodSeconds) * time.Second
	if period == 0 {
		period = 10 * time.Second
	}
	if time.Since(s.at) < period {
		return false
	}
	s.at = time.Now()
	return true
}

// proxyReady asks the sidecar.
func (p *pod) proxyReady() error {
	if !p.spec.Sidecar && !p.spec.Gateway {
		return nil
	}
	return p.httpGet(15021, "/healthz/ready", nil, time.Second)
}

// settleTime is how long an application without a readiness probe must have
// run: one that cannot be started, or ends at once, was never ready.
const settleTime = 100 * time.Millisecond

func (p *pod) appReady() error {
	if p.spec.Ready != nil || p.spec.Gateway || p.spec.Once {
		return p.check(p.spec.Ready)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.processes[AppContainer] == nil || time.Since(p.begun) < settleTime {
		return errNoProcess
	}
	return nil
}

// check runs one probe; none is a success.
func (p *pod) check(pr *corev1.Probe) error {
	if pr == nil {
		return nil
	}
	timeout := time.Duration(max(pr.TimeoutSeconds, 1)) * time.Second
	switch {
	case pr.HTTPGet != nil:
		return p.httpGet(p.portNumber(pr.HTTPGet.Port), pr.HTTPGet.Path, pr.HTTPGet.HTTPHeaders, timeout)
	case pr.TCPSocket != nil:
		ctx, cancel := context.WithTimeout(p.ctx, timeout)
		defer cancel()
		c, err := p.dialSelf(ctx, p.portNumber(pr.TCPSocket.Port))
		if err == nil {
			c.Close()
		}
		return err
	case pr.Exec != nil:
		return p.execProbe(pr.Exec.Command, timeout)
	}
	return fmt.Errorf("this kind of probe is not supported on one machine")
}

func (p *pod) portNumber(v intstr.IntOrString) int { return portNumber(v, p.spec.Ports) }

// portNumber is the number itself or that of the port with the name; 0: none has it.
func portNumber(v intstr.IntOrString, ports []resource.WorkloadPort) int {
	if v.Type == intstr.Int {
		return v.IntValue()
	}
	for _, port := range ports {
		if port.Name == v.StrVal {
			return int(port.Port)
		}
	}
	return 0
}

// dialSelf reaches the pod's own address, as kubelet would.
func (p *pod) dialSelf(ctx context.Context, port int) (net.Conn, error) {
	return p.ns.dial(ctx, net.JoinHostPort(p.addr.String(), fmt.Sprint(port)))
}

func (p *pod) httpGet(port int, path string, headers []corev1.HTTPHeader, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	defer cancel()
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dialSelf(ctx, port) }}
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s:%d%s", p.addr, port, path), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "kube-probe/tulle")
	for _, h := range headers {
		req.Header.Set(h.Name, h.Value)
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func (p *pod) execProbe(argv []string, timeout time.Duration) error {
	cmd := p.command(p.ns, argv, p.appEnv(), false)
	if err := p.launch(p.ns, cmd); err != nil {
		return err
	}
	timer := time.AfterFunc(timeout, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	return cmd.Wait()
}

func period(p *corev1.Probe) time.Duration {
	if p == nil {
		return 0
	}
	return time.Duration(p.PeriodSeconds) * time.Second
}
