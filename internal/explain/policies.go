package explain

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// judged sorts the policies in force that were considered: the one that let
// pass, and those that did not match.
func judged(considered []authz.Considered) (name string, matched ir.Origin, missed []Missed) {
	for _, p := range considered {
		switch {
		case p.DryRun || p.Action == ir.Audit:
		case p.Missed != "":
			missed = append(missed, Missed{string(p.Action) + " " + p.Policy.Name, p.Missed, p.Policy.Origin})
		case p.Action != ir.Deny:
			matched, name = p.Policy.Origin, string(p.Action)+" "+p.Policy.Name
		}
	}
	return name, matched, missed
}

// asides are steps for what policies say beside the verdict: AUDIT, dry-run.
func (a *Answer) asides(d *authz.Decision, considered []authz.Considered) {
	var trial []Missed
	shadow := map[string]ir.Origin{}
	for _, p := range considered {
		switch {
		case p.Action == ir.Audit && p.Policy.Name == d.Audit:
			a.step("audit", "marked by AUDIT "+d.Audit, p.Policy.Origin)
		case p.DryRun && p.Missed != "":
			trial = append(trial, Missed{string(p.Action) + " " + p.Policy.Name, p.Missed, p.Policy.Origin})
		case p.DryRun:
			shadow[p.Policy.Name] = p.Policy.Origin
		}
	}
	if !d.Dry.Asked() {
		return
	}
	a.DryRun = "deny"
	if d.Would() {
		a.DryRun = "allow"
	}
	by := d.Dry.Deny.Policy
	if by == "" {
		by = d.Dry.Allow.Policy
	}
	why := ""
	if by != "" {
		why = ", for " + by + " matches"
	}
	a.step("dry-run", fmt.Sprintf("the verdict would be %s were the dry-run policies in force%s", a.DryRun, why), shadow[by], trial...)
}
