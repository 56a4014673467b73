package h2

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
)

// A connection that ends between Open and WriteHead ends the stream too: it was
// never in the connection's books, so that nothing else would wake who waits.
func TestConnectionEndsBeforeTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewConn(&script{in: strings.NewReader("")}, Options{})
		s, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c.Close()
		if err := s.WriteHead(request("GET", "/", false), true); err == nil {
			t.Error("the request was written")
		}
		s.SetReadBy(time.Now().Add(time.Minute), 0)
		if err := s.ReadHead(&header.Head{}); !RetrySafe(err) {
			t.Errorf("%v: nothing was sent, so that it may be sent again", err)
		}
	})
}
