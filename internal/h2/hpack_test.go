package h2

import (
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/header"
)

// A name in the dynamic table keeps its own memory, whatever the value.
func TestTableOwnsItsStrings(t *testing.T) {
	for _, value := range []string{"", "v"} {
		d := newDecoder()
		o := Options{}
		o.defaults()
		var a arena
		var h header.Head
		var m message
		block := appendString(appendString([]byte{0x40}, "grpc-message"), value)
		m.begin(&h, &a, &o, true)
		if err := d.decode(block, &m); err != nil {
			t.Fatal(err)
		}
		for i := range a.buf {
			a.buf[i] = '#'
		}
		if e, ok := d.at(uint64(len(staticTable)) + 1); !ok || e.name != "grpc-message" || e.value != value {
			t.Errorf("with value %q the table holds %+v", value, e)
		}
	}
}

// What is remembered of the last block's literals never stands for others.
func TestMemoDecodesWhatIsThere(t *testing.T) {
	d := newDecoder()
	o := Options{}
	o.defaults()
	var h header.Head
	var a arena
	long := strings.Repeat("long-value/", 30)
	for _, values := range [][]string{
		{"nginx", "Mon, 23 Nov 2026 10:00:00 GMT", long},
		{"nginx", "Mon, 23 Nov 2026 10:00:01 GMT", long},
		{"nginx"},
		{"Mon, 23 Nov 2026 10:00:01 GMT", "nginx", long + "!"},
		{"", "nginx", ""},
		strings.Split(strings.Repeat("ab,cd,ef,", 12)+"gh", ","),
		strings.Split(strings.Repeat("ab,cd,xx,", 12)+"gh", ","),
		{"nginx", "Mon, 23 Nov 2026 10:00:00 GMT"},
	} {
		var block []byte
		for _, v := range values {
			block = appendString(append(block, 0), "x-field")
			block = appendInt(block, 0x80, 7, hpack.HuffmanEncodeLength(v))
			block = hpack.AppendHuffmanString(block, v)
		}
		var m message
		a.reset()
		m.begin(&h, &a, &o, true)
		if err := d.decode(block, &m); err != nil {
			t.Fatal(err)
		}
		for i := range block {
			block[i] = '#' // the connection's buffer is used again
		}
		for i, v := range values {
			if got := h.Fields.Fields[i].Value; got != v {
				t.Errorf("%q is taken for %q", v, got)
			}
		}
	}
	if len(d.memo.last) > maxMemos {
		t.Errorf("%d literals are remembered", len(d.memo.last))
	}
}
