package route

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Tried is one route that Match looked at, for explain. Missed is empty for
// the one that took the request.
type Tried struct {
	Route  *ir.Route
	Missed string
}

// Trace does what Match does and says which routes were tried, in order.
func (t *Table) Trace(r *Request) (vh *ir.VirtualHost, tried []Tried, taken *Route) {
	v := t.virtualHost(r.Host)
	if v == nil {
		return nil, nil, nil
	}
	for _, c := range v.routes {
		why, ok := c.matches(r)
		if ok {
			return v.VirtualHost, append(tried, Tried{Route: c.Route}), c
		}
		tried = append(tried, Tried{c.Route, why.String()})
	}
	return v.VirtualHost, tried, nil
}

func (r reason) String() string {
	what := r.what
	if r.name != "" {
		what += " " + r.name
	}
	got := fmt.Sprintf("is %q", r.got)
	if !r.present {
		got = "is absent"
	}
	if r.want.Kind == ir.Present {
		return what + " " + got
	}
	return fmt.Sprintf("%s %s, wanted %s %q", what, got, r.want.Kind, r.want.Value)
}
