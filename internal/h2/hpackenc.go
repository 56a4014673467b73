package h2

import (
	"encoding/binary"
	"math/bits"
)

// encoder is HPACK's sending side. Nothing in it allocates after its first
// requests: entries are copied into buffers that are reused, and fields are
// found by one hash of name and value in tables that point to insertions;
// a collision only costs a repetition on the wire, so that the hash may be one
// that looks at no more than both ends.
//
// A field goes into the dynamic table the second time it is seen, so that
// values that never come again (request ids, lengths, times) neither push out
// the useful entries nor cost the peer an insertion. Strings are written
// without Huffman coding: between sidecars processor time is dearer than bytes.
type encoder struct {
	ring    [tableSize / entryOverhead]sentEntry
	inserts uint64 // how many ever; entry number n lies in ring[n%len]
	count   int
	size    int
	max     int // at most tableSize and what the peer's SETTINGS allow
	lowest  int // smallest max since the last block; RFC 7541 section 4.2
	update  bool

	byField [512]uint64 // hash → insertion number+1
	byName  [256]uint64
	seen    [512]uint32 // hashes of fields sent once
}

type sentEntry struct {
	buf  []byte // name and value
	name int    // length of the name
}

func newEncoder() *encoder {
	return &encoder{max: tableSize, lowest: tableSize}
}

// setMax follows the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setMax(n uint32) {
	limit := int(min(n, tableSize))
	if limit == e.max {
		return
	}
	e.max = limit
	e.lowest = min(e.lowest, e.max)
	e.update = true
	e.evict(0)
}

// begin starts a header block.
func (e *encoder) begin(b []byte) []byte {
	if !e.update {
		return b
	}
	if e.lowest < e.max {
		b = appendInt(b, 0x20, 5, uint64(e.lowest))
	}
	b = appendInt(b, 0x20, 5, uint64(e.max))
	e.lowest, e.update = e.max, false
	return b
}

// field appends one field.
func (e *encoder) field(b []byte, name, value string) []byte {
	hn := hash(name, 0)
	h := hash(value, hn)
	if i := e.find(h, name, value); i > 0 {
		return appendInt(b, 0x80, 7, i)
	}
	static := staticName(name)
	if static > 0 {
		for i := static; i <= uint64(len(staticTable)) && staticTable[i-1].Name == name; i++ {
			if staticTable[i-1].Value == value {
				return appendInt(b, 0x80, 7, i)
			}
		}
	}
	index := static
	if index == 0 {
		index = e.findName(hn, name)
	}
	switch {
	case sensitive(name):
		b = appendInt(b, 0x10, 4, index)
	case e.again(h) && len(name)+len(value)+entryOverhead <= e.max/2:
		b = appendInt(b, 0x40, 6, index)
		e.insert(h, hn, name, value)
	default:
		b = appendInt(b, 0, 4, index)
	}
	if index == 0 {
		b = appendString(b, name)
	}
	return appendString(b, value)
}

// hash mixes a string's length, its first eight and its last eight bytes.
func hash(s string, seed uint64) uint64 {
	const k0, k1 = 0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9
	var first, last uint64
	if n := len(s); n >= 8 {
		first, last = binary.LittleEndian.Uint64([]byte(s[:8])), binary.LittleEndian.Uint64([]byte(s[n-8:]))
	} else {
		for i := range n {
			first = first<<8 | uint64(s[i])
		}
	}
	hi, lo := bits.Mul64(first^seed^k0, last^uint64(len(s))^k1)
	return hi ^ lo
}

// fieldBytes is field for a value that is different every time, so that it
// needs neither a string nor a place in the table.
func (e *encoder) fieldBytes(b []byte, name string, value []byte) []byte {
	b = appendInt(b, 0, 4, staticName(name))
	b = appendInt(b, 0, 7, uint64(len(value)))
	return append(b, value...)
}

// sensitive names are never indexed, by us or by an intermediary behind us
// (RFC 7541 section 7.1.3): a shared table would let their values be guessed.
func sensitive(name string) bool {
	return name == "authorization" || name == "cookie" || name == "proxy-authorization" || name == "set-cookie"
}

// again reports whether the field was sent before, and remembers it.
func (e *encoder) again(h uint64) bool {
	slot := &e.seen[h%uint64(len(e.seen))]
	mark := uint32(h>>32) | 1
	if *slot == mark {
		return true
	}
	*slot = mark
	return false
}

// live returns the entry of an insertion number, nil when it was evicted.
func (e *encoder) live(n uint64) *sentEntry {
	if n == 0 || e.inserts-(n-1) > uint64(e.count) {
		return nil
	}
	return &e.ring[(n-1)%uint64(len(e.ring))]
}

// index is the HPACK index of an insertion number.
func (e *encoder) index(n uint64) uint64 { return uint64(len(staticTable)) + e.inserts - (n - 1) }

func (e *encoder) find(h uint64, name, value string) uint64 {
	n := e.byField[h%uint64(len(e.byField))]
	s := e.live(n)
	if s == nil || string(s.buf[:s.name]) != name || string(s.buf[s.name:]) != value {
		return 0
	}
	return e.index(n)
}

func (e *encoder) findName(h uint64, name string) uint64 {
	n := e.byName[h%uint64(len(e.byName))]
	s := e.live(n)
	if s == nil || string(s.buf[:s.name]) != name {
		return 0
	}
	return e.index(n)
}

func (e *encoder) insert(h, hn uint64, name, value string) {
	e.evict(len(name) + len(value) + entryOverhead)
	s := &e.ring[e.inserts%uint64(len(e.ring))]
	s.buf = append(append(s.buf[:0], name...), value...)
	s.name = len(name)
	e.inserts++
	e.count++
	e.size += len(s.buf) + entryOverhead
	e.byField[h%uint64(len(e.byField))] = e.inserts
	e.byName[hn%uint64(len(e.byName))] = e.inserts
}

func (e *encoder) evict(size int) {
	for e.count > 0 && e.size+size > e.max {
		oldest := &e.ring[(e.inserts-uint64(e.count))%uint64(len(e.ring))]
		e.size -= len(oldest.buf) + entryOverhead
		e.count--
	}
}

// appendInt appends an integer with a prefix of n bits (RFC 7541 section 5.1).
func appendInt(b []byte, first byte, n int, v uint64) []byte {
	mask := uint64(1)<<n - 1
	if v < mask {
		return append(b, first|byte(v))
	}
	b = append(b, first|byte(mask))
	return binary.AppendUvarint(b, v-mask)
}

func appendString(b []byte, s string) []byte {
	return append(appendInt(b, 0, 7, uint64(len(s))), s...)
}
