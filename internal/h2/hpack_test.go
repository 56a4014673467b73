package h2

import (
	"testing"

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
