package rego

import (
	"context"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// DecideOnce compiles f's policy for one question. It is for explain.
func DecideOnce(ctx context.Context, f *ir.ExtAuthz, e *authz.External) authz.Verdict {
	p, err := Compile(f.Rego)
	if err != nil {
		return authz.Verdict{Err: err}
	}
	d := NewDecider(p, nil, f.Timeout.D())
	d.contract = true
	return d.Check(ctx, e)
}
