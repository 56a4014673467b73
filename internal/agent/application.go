package agent

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/workloadapi"
)

// application is the identity that the application itself has, if it asks for
// one: the same SPIFFE ID as the sidecar's, another key.
type application struct {
	holder  *identity.Holder // nil: no Workload API is served
	rotator *ca.Rotator
	begin   sync.Once
}

// serveApplication opens the SPIFFE Workload API. No certificate is asked for
// before the application asks.
func (a *agent) serveApplication(ctx context.Context, g *errgroup.Group) error {
	if a.opts.WorkloadAPI == "" {
		return nil
	}
	l, err := workloadapi.Listen(a.opts.WorkloadAPI)
	if err != nil {
		return err
	}
	app := &a.application
	app.holder = identity.NewHolder(a.holder.TrustDomain())
	log := a.opts.Log.With("for", "application")
	app.rotator = ca.NewRotator(ca.RotatorOptions{Conn: a.conn, Holder: app.holder, TTL: a.opts.CertificateTTL, Log: log})
	s := workloadapi.New(workloadapi.Options{Holder: app.holder, ControlPlane: a.conn, SameNetwork: a.opts.SameNetwork, Log: log, Wanted: func() {
		app.begin.Do(func() { g.Go(func() error { return quiet(app.rotator.Run(ctx)) }) })
	}})
	g.Go(func() error { return s.Serve(ctx, l) })
	return nil
}

// trust takes over the trust bundle of a snapshot.
func (app *application) trust(s *ir.Snapshot) {
	if app.holder != nil && !Trust(app.holder, s) {
		app.rotator.Renew()
	}
}
