package telemetry

import (
	"encoding/binary"
	"time"
)

// text appends s, or "-" when it is empty. Bytes that could forge a line or
// close a quotation are escaped: what a peer sent must not write the log.
func text(b []byte, s string) []byte {
	switch {
	case s == "":
		return append(b, '-')
	case clean(s):
		return append(b, s...)
	}
	for i := 0; i < len(s); i++ {
		const hex = "0123456789abcdef"
		switch c := s[i]; {
		case !escaped(c):
			b = append(b, c)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// escaped are the bytes that text does not pass through.
func escaped(c byte) bool { return c < 0x20 || c == 0x7f || c == '"' || c == '\\' }

// clean reports whether nothing in s is escaped, which is so of nearly every
// value: looking at the bytes one by one was a third of what a line cost.
func clean(s string) bool {
	if len(s) < 8 {
		for i := 0; i < len(s); i++ {
			if escaped(s[i]) {
				return false
			}
		}
		return true
	}
	for i := 0; i+8 <= len(s); i += 8 {
		if escapes(binary.LittleEndian.Uint64([]byte(s[i : i+8]))) {
			return false
		}
	}
	return !escapes(binary.LittleEndian.Uint64([]byte(s[len(s)-8:])))
}

// escapes reports whether one of a word's eight bytes is escaped. A byte below
// another is found by the borrow into its highest bit, an equal one as the zero
// that the exclusive or leaves. A borrow can make a neighbour look escaped that
// is not, but only beside one that is.
func escapes(w uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	zero := func(v uint64) uint64 { return (v - ones) & ^v }
	return ((w-ones*0x20)&^w|zero(w^ones*0x7f)|zero(w^ones*'"')|zero(w^ones*'\\'))&highs != 0
}

// appendTime writes 2026-01-02T15:04:05.678Z, Envoy's default.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	milli := t.Nanosecond() / 1e6
	b = two(two(b, year/100), year%100)
	b = two(append(b, '-'), int(month))
	b = two(append(b, '-'), day)
	b = two(append(b, 'T'), hour)
	b = two(append(b, ':'), minute)
	b = two(append(b, ':'), second)
	b = two(append(b, '.', byte('0'+milli/100)), milli%100)
	return append(b, 'Z')
}

// two appends a number of two digits.
func two(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }
