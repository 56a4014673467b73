package h2

import "unsafe"

// arena holds the strings of one stream's messages. When it grows, strings cut
// from it before keep the old array alive.
type arena struct{ buf []byte }

// maxKeptArena is the most a pooled stream keeps.
const maxKeptArena = 16 << 10

func (a *arena) reset() {
	if cap(a.buf) > maxKeptArena {
		a.buf = nil
	}
	a.buf = a.buf[:0]
}

// add copies b and returns the copy.
func (a *arena) add(b []byte) string {
	from := len(a.buf)
	a.buf = append(a.buf, b...)
	return a.since(from)
}

// Write appends, for hpack.HuffmanDecode.
func (a *arena) Write(b []byte) (int, error) {
	a.buf = append(a.buf, b...)
	return len(b), nil
}

// since returns what was appended after the arena was from bytes long.
func (a *arena) since(from int) string {
	if from == len(a.buf) {
		return ""
	}
	return unsafe.String(&a.buf[from], len(a.buf)-from)
}

// join appends x, a separator and y.
func (a *arena) join(x, sep, y string) string {
	from := len(a.buf)
	a.buf = append(append(append(a.buf, x...), sep...), y...)
	return a.since(from)
}
