package upstream

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// A connection on which a write has failed is not used again, even if a whole
// response came on it: part of the request may have gone out, and the next one
// would pass for the rest.
func TestTornConnectionIsClosed(t *testing.T) {
	c := cluster(t, ir.Cluster{}, listening(t))
	for name, write := range map[string]func(up Carrier) error{
		"head": func(up Carrier) error { return up.Flush() },
		"body": func(up Carrier) error { return up.WriteData(make([]byte, 1<<20), false) },
	} {
		up, err := acquire(c)
		if err != nil {
			t.Fatal(err)
		}
		up.SetWriteBy(past)
		up.WriteHead(&header.Head{Method: "POST", Path: "/", Framing: header.Open}, false)
		if write(up) == nil {
			t.Fatalf("%s: written in no time", name)
		}
		up.Release(time.Now())
		if up, err = acquire(c); err != nil || up.Reused() {
			t.Errorf("%s: used again (%v)", name, err)
		}
		up.Close()
	}
}
