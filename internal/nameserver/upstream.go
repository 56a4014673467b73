package nameserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Upstreams are the name servers that the workload was given.
type Upstreams struct {
	Servers []netip.AddrPort
	// Dial opens a connection that is not redirected to the sidecar again;
	// default net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// askTimeout is how long one server has for an answer; the next one is asked
// then, and a resolver behind us has not given up yet (5s is usual).
const askTimeout = 2 * time.Second

const maxServers = 3 // as resolv.conf(5)

// ReadServers takes the name servers out of a resolv.conf.
func ReadServers(path string) ([]netip.AddrPort, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan() && len(out) < maxServers; {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out, nil
}

// Ask sends a query to one server after the other until one knows, or knows
// that there is no such name; if none does, what the last one said of it is
// returned. The query gets an identifier of its own, so that nobody who knows
// the workload's can answer in the server's place.
func (u *Upstreams) Ask(ctx context.Context, network string, query []byte) ([]byte, error) {
	if len(query) < 12 {
		return nil, errNoQuery
	}
	failed := errors.New("no name server is configured")
	var unsure []byte
	for _, server := range u.Servers {
		own := bytes.Clone(query)
		own[0], own[1] = byte(rand.Uint32()), byte(rand.Uint32())
		msg, err := u.ask(ctx, network, server, own)
		if err == nil {
			msg[0], msg[1] = query[0], query[1]
			if decides(msg) {
				return msg, nil
			}
			unsure = msg
			continue
		}
		if failed = err; ctx.Err() != nil {
			break
		}
	}
	if unsure != nil {
		return unsure, nil
	}
	return nil, failed
}

// decides reports whether no other server needs to be asked.
func decides(msg []byte) bool {
	code := dnsmessage.RCode(msg[3] & 0xf) // RFC 1035 section 4.1.1
	return code == dnsmessage.RCodeSuccess || code == dnsmessage.RCodeNameError
}

func (u *Upstreams) ask(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	dial := u.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if network == "tcp" {
		if err := writeMessage(c, query); err != nil {
			return nil, err
		}
		msg, err := readMessage(c)
		if err == nil && !answers(msg, query) {
			err = fmt.Errorf("name server %s answers something else", server)
		}
		return msg, err
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxMessage)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], query) {
			return bytes.Clone(buf[:n]), nil
		}
		// Not what was asked: late, or forged. The right one may still come.
	}
}

// answers reports whether msg is a response to query: same identifier, same
// question.
func answers(msg, query []byte) bool {
	var a, q dnsmessage.Parser
	ah, err := a.Start(msg)
	qh, err2 := q.Start(query)
	if err != nil || err2 != nil || !ah.Response || ah.ID != qh.ID {
		return false
	}
	x, err := a.Question()
	y, err2 := q.Question()
	return err == nil && err2 == nil && x.Type == y.Type && x.Class == y.Class && strings.EqualFold(x.Name.String(), y.Name.String())
}
