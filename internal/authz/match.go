package authz

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// matcher is one node of a compiled expression.
type matcher interface{ match(in *Input) bool }

type (
	anything struct{}
	all      []matcher
	some     []matcher
	negation struct{ of matcher }
	// leaf compares one attribute.
	leaf struct {
		expr *ir.Expr
		text func(string) bool
		cidr netip.Prefix
	}
)

func (anything) match(*Input) bool { return true }

func (a all) match(in *Input) bool {
	for _, m := range a {
		if !m.match(in) {
			return false
		}
	}
	return true
}

func (s some) match(in *Input) bool {
	for _, m := range s {
		if m.match(in) {
			return true
		}
	}
	return false
}

func (n negation) match(in *Input) bool { return !n.of.match(in) }

// compile builds the matcher of an expression; nil is "any".
func compile(e *ir.Expr) (matcher, error) {
	if e == nil {
		return anything{}, nil
	}
	switch e.Op {
	case ir.Any:
		return anything{}, nil
	case ir.And, ir.Or:
		list := make([]matcher, 0, len(e.Args))
		for _, a := range e.Args {
			m, err := compile(a)
			if err != nil {
				return nil, err
			}
			list = append(list, m)
		}
		if e.Op == ir.And {
			return all(list), nil
		}
		return some(list), nil
	case ir.Not:
		if len(e.Args) != 1 {
			return nil, fmt.Errorf("not: want one argument, have %d", len(e.Args))
		}
		m, err := compile(e.Args[0])
		return negation{m}, err
	case ir.Leaf:
		return compileLeaf(e)
	}
	return nil, fmt.Errorf("expression %q is not known", e.Op)
}

func compileLeaf(e *ir.Expr) (matcher, error) {
	l := &leaf{expr: e}
	var err error
	switch e.Attr {
	case ir.AttrClaim, ir.AttrAudience, ir.AttrPresenter:
		return compileClaim(e)
	case ir.AttrSourceIP, ir.AttrRemoteIP, ir.AttrDestinationIP:
		if l.cidr, err = parseCIDR(e.CIDR); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Attr, err)
		}
	case ir.AttrDestinationPort:
	case ir.AttrPrincipal, ir.AttrSNI, ir.AttrHost, ir.AttrMethod, ir.AttrPath, ir.AttrHeader:
		if l.text, err = textMatcher(e.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Attr, err)
		}
	default:
		return nil, fmt.Errorf("attribute %s is not supported", e.Attr)
	}
	return l, nil
}

func parseCIDR(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or CIDR", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (l *leaf) match(in *Input) bool {
	switch l.expr.Attr {
	case ir.AttrPrincipal:
		return in.Principal != "" && l.text(in.Principal)
	case ir.AttrSourceIP:
		return l.contains(in.SourceIP)
	case ir.AttrRemoteIP:
		return l.contains(in.RemoteIP)
	case ir.AttrDestinationIP:
		return l.contains(in.DestinationIP)
	case ir.AttrDestinationPort:
		return in.DestinationPort == l.expr.Port
	case ir.AttrSNI:
		return in.SNI != "" && l.text(in.SNI)
	}
	if !in.HTTP {
		return false
	}
	switch l.expr.Attr {
	case ir.AttrHost:
		return l.text(in.Host)
	case ir.AttrMethod:
		return l.text(in.Method)
	case ir.AttrPath:
		return l.text(in.Path)
	case ir.AttrHeader:
		if in.Headers == nil {
			return false
		}
		v, ok := in.Headers.Get(l.expr.Key)
		return ok && l.text(v)
	}
	return false
}

// contains compares the address itself: IPv4 mapped into IPv6 and a zone would
// otherwise pass every block by.
func (l *leaf) contains(a netip.Addr) bool { return l.cidr.Contains(a.Unmap().WithZone("")) }

// textMatcher compiles a string comparison.
func textMatcher(m ir.Match) (func(string) bool, error) {
	want := m.Value
	if m.IgnoreCase {
		switch m.Kind {
		case ir.Exact:
			return func(s string) bool { return strings.EqualFold(s, want) }, nil
		case ir.Prefix:
			return func(s string) bool { return len(s) >= len(want) && strings.EqualFold(s[:len(want)], want) }, nil
		case ir.Suffix:
			return func(s string) bool { return len(s) >= len(want) && strings.EqualFold(s[len(s)-len(want):], want) }, nil
		}
	}
	switch m.Kind {
	case ir.Exact:
		return func(s string) bool { return s == want }, nil
	case ir.Prefix:
		return func(s string) bool { return strings.HasPrefix(s, want) }, nil
	case ir.Suffix:
		return func(s string) bool { return strings.HasSuffix(s, want) }, nil
	case ir.Contains:
		return func(s string) bool { return strings.Contains(s, want) }, nil
	case ir.Present:
		return func(s string) bool { return true }, nil
	case ir.Regex:
		if _, err := regexp.Compile(want); err != nil { // "a)|(?:b" would pass inside the group, unanchored
			return nil, err
		}
		re, err := regexp.Compile("^(?:" + want + ")$")
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	case ir.Template:
		return template(want)
	}
	return nil, fmt.Errorf("comparison %q is not known", m.Kind)
}

// template compiles a path template: {*} is one segment, {**} any rest, the
// latter in last place only but for a literal suffix in its own segment.
func template(want string) (func(string) bool, error) {
	var b strings.Builder
	b.WriteByte('^')
	for rest := want; rest != ""; {
		i := strings.IndexByte(rest, '{')
		if i < 0 {
			b.WriteString(regexp.QuoteMeta(rest))
			break
		}
		b.WriteString(regexp.QuoteMeta(rest[:i]))
		rest = rest[i:]
		switch {
		case strings.HasPrefix(rest, "{*}"):
			b.WriteString("[^/]+")
			rest = rest[3:]
		case strings.HasPrefix(rest, "{**}"):
			b.WriteString(".*")
			if rest = rest[4:]; strings.Contains(rest, "{") {
				return nil, fmt.Errorf("path template %q: nothing may follow {**}", want)
			}
		default:
			return nil, fmt.Errorf("path template %q: only {*} and {**} are known", want)
		}
	}
	b.WriteByte('$')
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}
