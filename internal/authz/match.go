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
		read reader // of a text
		text func(string) bool
		cidr netip.Prefix
		// hints, if set: without that bit text need not be called.
		hints *table
		hint  uint
	}
	// reader finds a text in the input; false: it is not there, and nothing
	// matches it.
	reader func(in *Input) (string, bool)
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
func (x *indexer) compile(e *ir.Expr) (matcher, error) {
	if e == nil {
		return anything{}, nil
	}
	switch e.Op {
	case ir.Any:
		return anything{}, nil
	case ir.And, ir.Or:
		list := make([]matcher, 0, len(e.Args))
		for _, a := range e.Args {
			m, err := x.part(a, e.Op)
			if err != nil {
				return nil, err
			}
			list = append(list, m)
		}
		if e.Op == ir.And {
			return all(list), nil
		}
		return x.gather(list), nil
	case ir.Not:
		if len(e.Args) != 1 {
			return nil, fmt.Errorf("not: want one argument, have %d", len(e.Args))
		}
		m, err := x.compile(e.Args[0])
		return negation{m}, err
	case ir.Leaf:
		m, err := compileLeaf(e)
		if l, ok := m.(*leaf); ok {
			return x.set([]*leaf{l}), nil
		}
		return m, err
	}
	return nil, fmt.Errorf("expression %q is not known", e.Op)
}

// part compiles an argument; leaves of an OR stay leaves, for gather.
func (x *indexer) part(e *ir.Expr, op ir.ExprOp) (matcher, error) {
	if op == ir.Or && e != nil && e.Op == ir.Leaf {
		return compileLeaf(e)
	}
	return x.compile(e)
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
		l.read = readerOf(e)
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
	if l.read != nil {
		v, ok := l.read(in)
		return ok && l.text(v)
	}
	switch l.expr.Attr {
	case ir.AttrSourceIP:
		return l.contains(in.SourceIP)
	case ir.AttrRemoteIP:
		return l.contains(in.RemoteIP)
	case ir.AttrDestinationIP:
		return l.contains(in.DestinationIP)
	case ir.AttrDestinationPort:
		return in.DestinationPort == l.expr.Port
	}
	return false
}

// readerOf finds the text that a leaf compares.
func readerOf(e *ir.Expr) reader {
	switch e.Attr {
	case ir.AttrPrincipal:
		return func(in *Input) (string, bool) { return in.Principal, in.Principal != "" }
	case ir.AttrSNI:
		return func(in *Input) (string, bool) { return in.SNI, in.SNI != "" }
	case ir.AttrHost:
		return func(in *Input) (string, bool) { return in.Host, in.HTTP }
	case ir.AttrMethod:
		return func(in *Input) (string, bool) { return in.Method, in.HTTP }
	case ir.AttrPath:
		return func(in *Input) (string, bool) { return in.Path, in.HTTP }
	}
	// Envoy keeps the request line among the headers, so that policies may name
	// its parts; Host is its :authority.
	switch key := e.Key; key {
	case ":authority", "host":
		return func(in *Input) (string, bool) { return in.Host, in.HTTP }
	case ":method":
		return func(in *Input) (string, bool) { return in.Method, in.HTTP }
	case ":path":
		return func(in *Input) (string, bool) {
			if in.Query == "" {
				return in.Path, in.HTTP
			}
			return in.Path + in.Query, in.HTTP
		}
	default:
		return func(in *Input) (string, bool) {
			if !in.HTTP || in.Headers == nil {
				return "", false
			}
			return in.Headers.Get(key)
		}
	}
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
