package h2

import (
	"bytes"
	"errors"

	"golang.org/x/net/http2/hpack"
)

// tableSize is the dynamic table we keep for each direction: the protocol's
// default, so that no peer has to be told.
const tableSize = 4096

// entryOverhead is what RFC 7541 section 4.1 adds to an entry's length.
const entryOverhead = 32

var (
	errHpack     = errors.New("malformed header block")
	errHpackSize = errors.New("dynamic table size update out of place or over the limit")
)

// entry is a decoded field with what validation found, so that an indexed
// field is looked at once and not with every request.
type entry struct {
	name, value string
	badName     bool
	badValue    bool
}

// decoder is HPACK's receiving side. Strings of fields that are in a table are
// the table's; others lie in the arena the caller gives.
type decoder struct {
	ring    []entry // newest at (next-1)
	next    int     // where the next entry goes
	count   int
	size    int
	literal entry // scratch
	max     int   // as the peer's encoder set it, at most tableSize
	memo    memo
}

func newDecoder() decoder {
	return decoder{ring: make([]entry, tableSize/entryOverhead), max: tableSize}
}

// decode hands every field of a complete header block to m. Literals are
// appended to its arena, whose memory must stay as long as the fields are used.
func (d *decoder) decode(block []byte, m *message) error {
	literal := &d.literal
	started := false
	d.memo.begin()
	for len(block) > 0 {
		b := block[0]
		var err error
		switch {
		case b&0x80 != 0:
			var i uint64
			if i, block, err = readInt(block, 7); err != nil {
				return err
			}
			e, ok := d.at(i)
			if !ok {
				return errHpack
			}
			m.field(e)
		case b&0xe0 == 0x20:
			if started { // RFC 7541 section 4.2: only in front of a block
				return errHpackSize
			}
			var n uint64
			if n, block, err = readInt(block, 5); err != nil {
				return err
			}
			if n > tableSize {
				return errHpackSize
			}
			d.max = int(n)
			d.evict(0)
			continue
		default:
			index := b&0xc0 == 0x40
			if block, err = d.readLiteral(block, index, m.a, literal); err != nil {
				return err
			}
			m.field(literal)
			if index {
				d.insert(literal)
			}
		}
		started = true
	}
	return nil
}

// readLiteral reads a field whose value is spelled out. index: it goes into the
// dynamic table, so its strings get memory of their own.
func (d *decoder) readLiteral(block []byte, index bool, a *arena, e *entry) ([]byte, error) {
	prefix := 4
	if index {
		prefix = 6
	}
	i, block, err := readInt(block, prefix)
	if err != nil {
		return nil, err
	}
	if i > 0 {
		named, ok := d.at(i)
		if !ok {
			return nil, errHpack
		}
		e.name, e.badName = named.name, named.badName
	} else {
		if e.name, block, err = d.readString(block, a); err != nil {
			return nil, err
		}
		e.badName = !validName(e.name)
	}
	if e.value, block, err = d.readString(block, a); err != nil {
		return nil, err
	}
	e.badValue = !validValue(e.value)
	if index && len(e.name)+len(e.value)+entryOverhead <= d.max {
		both := string(append(append(make([]byte, 0, len(e.name)+len(e.value)), e.name...), e.value...)) // name + "" would be name itself, in the arena
		if i == 0 || i > uint64(len(staticTable)) {
			e.name = both[:len(e.name)]
		}
		e.value = both[len(both)-len(e.value):]
	}
	return block, nil
}

// at returns the entry of an index; it is valid until the next insertion.
func (d *decoder) at(i uint64) (*entry, bool) {
	if i == 0 {
		return nil, false
	}
	if i <= uint64(len(staticTable)) {
		return &staticEntries[i-1], true
	}
	i -= uint64(len(staticTable))
	if i > uint64(d.count) {
		return nil, false
	}
	return &d.ring[(d.next-int(i)+len(d.ring))%len(d.ring)], true
}

var staticEntries = func() (all [len(staticTable)]entry) {
	for i, f := range staticTable {
		all[i] = entry{name: f.Name, value: f.Value}
	}
	return all
}()

// insert adds e; one larger than the table empties it (RFC 7541 section 4.4).
func (d *decoder) insert(e *entry) {
	size := len(e.name) + len(e.value) + entryOverhead
	d.evict(size)
	if size > d.max {
		return
	}
	d.ring[d.next] = *e
	d.next = (d.next + 1) % len(d.ring)
	d.count++
	d.size += size
}

// evict drops the oldest entries until size more fit.
func (d *decoder) evict(size int) {
	for d.count > 0 && d.size+size > d.max {
		oldest := &d.ring[(d.next-d.count+len(d.ring))%len(d.ring)]
		d.size -= len(oldest.name) + len(oldest.value) + entryOverhead
		*oldest = entry{}
		d.count--
	}
}

// readInt reads an integer with a prefix of n bits (RFC 7541 section 5.1). No
// number we accept needs more than 28 bits behind the prefix.
func readInt(b []byte, n int) (uint64, []byte, error) {
	mask := byte(1)<<n - 1
	v := uint64(b[0] & mask)
	if v < uint64(mask) {
		return v, b[1:], nil
	}
	for i := 1; i < len(b) && i <= 5; i++ {
		v += uint64(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			return v, b[i+1:], nil
		}
	}
	return 0, nil, errHpack
}

// readString reads a string literal into the arena.
func (d *decoder) readString(b []byte, a *arena) (string, []byte, error) {
	if len(b) == 0 {
		return "", nil, errHpack
	}
	huffman := b[0]&0x80 != 0
	n, b, err := readInt(b, 7)
	if err != nil || n > uint64(len(b)) {
		return "", nil, errHpack
	}
	raw, rest := b[:n], b[n:]
	if !huffman {
		return a.add(raw), rest, nil
	}
	known := d.memo.next()
	if known != nil && bytes.Equal(known.coded, raw) {
		return a.add(known.text), rest, nil
	}
	from := len(a.buf)
	// A code is at least 5 bits, so the output is bounded by the block's length.
	if _, err := hpack.HuffmanDecode(a, raw); err != nil {
		return "", nil, errHpack
	}
	s := a.since(from)
	if known != nil && len(raw) <= maxMemo {
		known.coded, known.text = append(known.coded[:0], raw...), append(known.text[:0], s...)
	}
	return s, rest, nil
}

// memo remembers what the Huffman-coded literals of the last header block
// were, by their place in it. Peers that do not index (nginx) send the same
// ones with each message, and decoding them, bit by bit, was a fifth of the
// reading side's time.
type memo struct {
	last []decoded
	at   int // how many this block has had
}

type decoded struct{ coded, text []byte }

// maxMemo is the longest literal, coded, that is remembered, maxMemos how many
// are: they bound what a connection holds.
const (
	maxMemo  = 128
	maxMemos = 16
)

func (m *memo) begin() { m.at = 0 }

// next is the place of the block's next literal; nil when there are too many.
func (m *memo) next() *decoded {
	if m.at == len(m.last) {
		if m.at == maxMemos {
			return nil
		}
		m.last = append(m.last, decoded{})
	}
	m.at++
	return &m.last[m.at-1]
}
