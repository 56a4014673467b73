package proxy

import (
	"bytes"
	"net"
	"testing"
)

// rawServer answers every request on a connection with the same bytes and
// allocates nothing for it.
func rawServer(t testing.TB, answer []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, held := make([]byte, 16<<10), 0
				for {
					n, err := c.Read(b[held:])
					if err != nil {
						return
					}
					if held += n; bytes.HasSuffix(b[:held], []byte("\r\n\r\n")) {
						held = 0
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
