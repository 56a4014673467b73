package authz

import "github.com/tulle-mesh/tulle/internal/ir"

// Shadow is what the dry-run policies of one action said (AP15).
type Shadow struct {
	Asked  bool   // there are such policies, and the request came as far as them
	Policy string // that matched; "" for none
}

// DryRun is what dry-run policies said, which refuse nothing.
type DryRun struct {
	Deny, Allow Shadow
	// live: ALLOW policies are in force too, and were asked.
	live bool
}

// Asked reports whether any dry-run policy was looked at.
func (r *DryRun) Asked() bool { return r.Deny.Asked || r.Allow.Asked }

func (r *DryRun) of(a ir.Action) *Shadow {
	if a == ir.Deny {
		return &r.Deny
	}
	return &r.Allow
}

// Allowed is Envoy's shadow_engine_result of the policies of an action, which
// knows nothing of the other policies.
func (r *DryRun) Allowed(a ir.Action) bool {
	if a == ir.Deny {
		return r.Deny.Policy == ""
	}
	return r.Allow.Policy != ""
}

// Would is the verdict if the dry-run policies were live: they join the
// others of their action. What the live DENY, CUSTOM and token steps refuse
// stays refused; what no live ALLOW policy matched, a dry-run one may allow.
func (d *Decision) Would() bool {
	r := &d.Dry
	switch {
	case !d.Allow && d.Action != ir.Allow:
		return false
	case r.Deny.Policy != "":
		return false
	case r.Allow.Policy != "":
		return true
	case r.Allow.Asked && !r.live:
		return false
	}
	return d.Allow
}
