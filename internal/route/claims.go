package route

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Claims looks up a claim of a verified token: whether it is a string that
// match accepts, or a list that has one.
type Claims interface {
	Claim(path []string, match func(string) bool) bool
}

type claimMatch struct {
	*ir.ClaimMatch
	text text
	is   func(string) bool // text.match, made once
}

func (c *Route) compileClaims(list []ir.ClaimMatch) error {
	for i := range list {
		m, err := compileText(list[i].Value)
		if err != nil {
			return fmt.Errorf("claim %s: %w", strings.Join(list[i].Path, "."), err)
		}
		if len(list[i].Path) == 0 {
			return fmt.Errorf("a claim without a name")
		}
		claim := claimMatch{ClaimMatch: &list[i], text: m, is: m.match}
		if m.Kind == ir.Present { // an empty claim is none (Istio's ".+")
			claim.is = func(s string) bool { return s != "" }
		}
		c.claims = append(c.claims, claim)
	}
	return nil
}

// claimsMatch is the last of a route's conditions.
func (c *Route) claimsMatch(r *Request) (reason, bool) {
	for i := range c.claims {
		m := &c.claims[i]
		if got := r.Claims != nil && r.Claims.Claim(m.Path, m.is); got == m.Invert {
			return reason{"claim", strings.Join(m.Path, "."), &m.text, firstClaim(r.Claims, m.Path), r.Claims != nil}, false
		}
	}
	return reason{}, true
}

// firstClaim is the claim as explain shows it.
func firstClaim(c Claims, path []string) (first string) {
	if c != nil {
		c.Claim(path, func(s string) bool { first = s; return true })
	}
	return first
}
