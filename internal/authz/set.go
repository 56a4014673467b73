package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// A rule asks whether a text is one of some values. All rules of an engine
// that ask about the same text share one table: the text is looked up once per
// request, and what it costs does not grow with the rules that it misses.

// set is an OR over values of one attribute.
type set struct {
	leaves []*leaf // all of them, for Trace
	table  *table  // nil: compared one by one
	bit    uint    // in the memo, when one of the table's values matches
	rest   []*leaf // what no table can look up
	asked  uint    // bit: rest was compared already; 0: there is no room for it
}

func (s *set) match(in *Input) bool {
	m := &in.memo
	if m.has(s.asked) || s.table != nil && s.table.has(in, s.bit) {
		return m.has(s.bit)
	}
	return len(s.rest) > 0 && s.compare(in)
}

// compare goes through rest, once for a request.
func (s *set) compare(in *Input) bool {
	for _, l := range s.rest {
		if (l.hints == nil || l.hints.has(in, l.hint)) && l.match(in) {
			if s.asked != 0 {
				in.memo.set(s.asked)
				in.memo.set(s.bit)
			}
			return true
		}
	}
	if s.asked != 0 {
		in.memo.set(s.asked)
	}
	return false
}

// memo is what is known of one request: which sets match. It belongs to the
// Input, so that a request costs no memory.
type memo struct {
	looked uint64 // by table: its text was looked up
	bits   [maxBits / 64]uint64
}

func (m *memo) has(bit uint) bool { return m.bits[bit/64]&(1<<(bit%64)) != 0 }

func (m *memo) set(bit uint) { m.bits[bit/64] |= 1 << (bit % 64) }

// Beyond these an engine compares one by one: the memo has a fixed size.
const (
	maxBits   = 512
	maxTables = 64
)

// table finds the values that match one text.
type table struct {
	number             uint // in memo.looked
	read               reader
	fold               bool // values are in lower case, and the text is to be
	exact              map[string][]uint
	prefixes, suffixes []byLength
	// Parts of the text: those that begin, and those that end, with a slash.
	// They can only stand where one is (namespaces in SPIFFE IDs).
	from, until []byLength
}

// byLength are the values of one length, and the sets they are in.
type byLength struct {
	n      int
	values map[string][]uint
}

func (t *table) has(in *Input, bit uint) bool {
	if in.memo.looked&(1<<t.number) == 0 {
		t.look(&in.memo, in)
	}
	return in.memo.has(bit)
}

func (t *table) look(m *memo, in *Input) {
	m.looked |= 1 << t.number
	v, ok := t.read(in)
	if !ok {
		return
	}
	if t.fold {
		v = strings.ToLower(v)
	}
	m.mark(t.exact[v])
	for _, p := range t.prefixes { // shorter ones first
		if p.n > len(v) {
			break
		}
		m.mark(p.values[v[:p.n]])
	}
	for _, p := range t.suffixes {
		if p.n > len(v) {
			break
		}
		m.mark(p.values[v[len(v)-p.n:]])
	}
	if len(t.from)+len(t.until) == 0 {
		return
	}
	for i := 0; i < len(v); i++ {
		if v[i] == '/' {
			t.parts(m, v, i)
		}
	}
}

// parts looks up what begins, and what ends, with the slash at i.
func (t *table) parts(m *memo, v string, i int) {
	for _, p := range t.from {
		if i+p.n > len(v) {
			break
		}
		m.mark(p.values[v[i:i+p.n]])
	}
	for _, p := range t.until {
		if p.n > i+1 {
			break
		}
		m.mark(p.values[v[i+1-p.n:i+1]])
	}
}

func (m *memo) mark(bits []uint) {
	for _, b := range bits {
		m.set(b)
	}
}

// indexer makes the tables of an engine while its expressions are compiled.
type indexer struct {
	tables map[textKey]*table
	sets   map[string]*set // equal ones are one
	bits   uint
}

type textKey struct {
	attr ir.Attr
	name string
	fold bool
}

// set finds or makes the matcher of an OR over one attribute.
func (x *indexer) set(leaves []*leaf) *set {
	var id strings.Builder
	for _, l := range leaves {
		e := l.expr
		fmt.Fprintf(&id, "%s[%s] %s %v %q %s %d\n", e.Attr, e.Key, e.Value.Kind, e.Value.IgnoreCase, e.Value.Value, e.CIDR, e.Port)
	}
	if s := x.sets[id.String()]; s != nil {
		return s
	}
	x.bits++ // bit 0 is never set
	s := &set{leaves: leaves, bit: x.bits}
	for _, l := range leaves {
		if t := x.table(l); t == nil || s.table != nil && s.table != t || !t.add(l.expr.Value, s.bit) {
			s.rest = append(s.rest, l)
		} else {
			s.table = t
		}
	}
	for _, l := range s.rest {
		x.hint(l)
	}
	if len(s.rest) > 0 && x.bits+1 < maxBits {
		x.bits++
		s.asked = x.bits
	}
	x.sets[id.String()] = s
	return s
}

// hint looks up how a path template ends, or else how it begins: most
// templates are told apart by that.
func (x *indexer) hint(l *leaf) {
	v := l.expr.Value.Value
	if l.expr.Value.Kind != ir.Template || !strings.Contains(v, "{") {
		return
	}
	m := ir.Match{Kind: ir.Suffix, Value: v[strings.LastIndexByte(v, '}')+1:]}
	if m.Value == "" {
		m = ir.Match{Kind: ir.Prefix, Value: v[:strings.IndexByte(v, '{')]}
	}
	if t := x.table(l); t != nil && x.bits+1 < maxBits {
		x.bits++
		l.hints, l.hint = t, x.bits
		t.add(m, l.hint)
	}
}

// table is the one for a leaf's text; nil when there is no room.
func (x *indexer) table(l *leaf) *table {
	if l.read == nil {
		return nil // no text
	}
	k := textKey{l.expr.Attr, l.expr.Key, l.expr.Value.IgnoreCase}
	t := x.tables[k]
	if x.bits >= maxBits || t == nil && len(x.tables) == maxTables {
		return nil
	}
	if t == nil {
		t = &table{number: uint(len(x.tables)), read: l.read, fold: k.fold, exact: map[string][]uint{}}
		x.tables[k] = t
	}
	return t
}

// add puts a value into the table; false: it is nothing to look up.
func (t *table) add(m ir.Match, bit uint) bool {
	v := m.Value
	if t.fold {
		v = strings.ToLower(v)
	}
	switch m.Kind {
	case ir.Exact:
		t.exact[v] = append(t.exact[v], bit)
	case ir.Prefix:
		t.prefixes = addByLength(t.prefixes, v, bit)
	case ir.Suffix:
		t.suffixes = addByLength(t.suffixes, v, bit)
	case ir.Contains:
		switch {
		case strings.HasPrefix(v, "/"):
			t.from = addByLength(t.from, v, bit)
		case strings.HasSuffix(v, "/"):
			t.until = addByLength(t.until, v, bit)
		default:
			return false
		}
	default:
		return false
	}
	return true
}

func addByLength(list []byLength, v string, bit uint) []byLength {
	i, found := slices.BinarySearchFunc(list, len(v), func(b byLength, n int) int { return b.n - n })
	if !found {
		list = slices.Insert(list, i, byLength{len(v), map[string][]uint{}})
	}
	list[i].values[v] = append(list[i].values[v], bit)
	return list
}

// gather makes one set of the parts of an OR that look at the same attribute, in
// the same way. Order plays no role in an OR.
func (x *indexer) gather(list []matcher) matcher {
	var out some
	var order []textKey
	texts := map[textKey][]*leaf{}
	for _, m := range list {
		l, ok := m.(*leaf)
		if !ok {
			out = append(out, m)
			continue
		}
		k := textKey{l.expr.Attr, l.expr.Key, l.expr.Value.IgnoreCase}
		if texts[k] == nil {
			order = append(order, k)
		}
		texts[k] = append(texts[k], l)
	}
	for _, k := range order {
		out = append(out, x.set(texts[k]))
	}
	if len(out) == 1 {
		return out[0]
	}
	return out
}
