package h2

import (
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
)

// ErrNoExtendedConnect is returned for an upgrade to a peer that does not
// offer RFC 8441.
var ErrNoExtendedConnect = errors.New("http2: the peer does not accept extended CONNECT")

// WriteHead queues a request (client) or a response (server), interim ones
// too. end: no body follows. The first of a client opens the stream.
func (s *Stream) WriteHead(h *header.Head, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.mayWrite(); err != nil {
		if !c.opts.Server && s.id == 0 { // the connection ended before it knew of the stream: nobody else tells who waits
			s.fail(ErrGoingAway)
		}
		return err
	}
	if !c.opts.Server {
		if err := s.openUpstream(h); err != nil {
			return err
		}
	}
	b := c.output.buf
	from := len(b)
	b = appendFrame(b, 0, frameHeaders, flagEndHeaders, s.id)
	b = c.enc.begin(b)
	if c.opts.Server {
		b = c.appendResponse(b, h)
	} else {
		b = c.appendRequest(b, h)
	}
	c.output.buf = c.closeBlock(b, from, end)
	if !c.opts.Server || h.Status >= 200 {
		s.sentHead = true
	}
	return s.wrote(end)
}

// openUpstream gives a client's stream its number, in the order in which heads
// are written (RFC 9113 section 5.1.1).
func (s *Stream) openUpstream(h *header.Head) error {
	c := s.c
	switch {
	case s.id != 0:
		return errStreamDone
	case c.peerGone || c.nextID > maxStreamID-2:
		s.fail(ErrGoingAway)
		return s.err
	case h.Upgrade != "" && !c.peer.extendedConnect:
		return ErrNoExtendedConnect
	}
	if h.Method == "HEAD" {
		s.method = "HEAD"
	}
	s.open(c.nextID)
	c.nextID += 2
	c.earn()
	return nil
}

// mayWrite reports why nothing can be written. With mu held.
func (s *Stream) mayWrite() error {
	switch {
	case s.err != nil:
		return s.err
	case s.c.err != nil:
		return s.c.err
	case s.sentEnd:
		return errStreamDone
	}
	return nil
}

// wrote notes what was queued. With mu held.
func (s *Stream) wrote(end bool) error {
	if end {
		s.sentEnd = true
		s.done()
	}
	if len(s.c.output.buf) >= flushAt {
		return s.c.flush()
	}
	return nil
}

// closeBlock fills in the length of the HEADERS frame at from and cuts it into
// CONTINUATIONs if it is longer than the peer takes.
func (c *Conn) closeBlock(b []byte, from int, end bool) []byte {
	if end {
		b[from+4] |= flagEndStream
	}
	n := len(b) - from - frameHeader
	if n <= c.peer.frame {
		setLength(b, from)
		return b
	}
	block := append([]byte(nil), b[from+frameHeader:]...)
	b = b[:from+frameHeader]
	b[from+4] &^= flagEndHeaders
	b = append(b, block[:c.peer.frame]...)
	setLength(b, from)
	for block = block[c.peer.frame:]; len(block) > 0; {
		part := block[:min(len(block), c.peer.frame)]
		block = block[len(part):]
		flags := byte(0)
		if len(block) == 0 {
			flags = flagEndHeaders
		}
		b = appendFrame(b, len(part), frameContinuation, flags, 0)
		copy(b[len(b)-4:], b[from+5:from+9])
		b = append(b, part...)
	}
	return b
}

func (c *Conn) appendRequest(b []byte, h *header.Head) []byte {
	e := c.enc
	method := h.Method
	if h.Upgrade != "" { // RFC 8441: HTTP/1.1's upgrade is a GET, HTTP/2's a CONNECT
		method = "CONNECT"
	}
	b = e.field(b, ":method", method)
	if method != "CONNECT" || h.Upgrade != "" {
		scheme := h.Scheme
		if scheme == "" {
			scheme = "http"
		}
		b = e.field(b, ":scheme", scheme)
		b = e.field(b, ":path", h.Path)
	}
	if h.Host != "" {
		b = e.field(b, ":authority", h.Host)
	}
	if h.Upgrade != "" {
		b = e.field(b, ":protocol", h.Upgrade)
	}
	b = c.appendFields(b, h.Fields.Fields, h.Host != "")
	switch {
	case h.Framing == header.Length:
		b = c.appendLength(b, h.Length)
	case h.Framing == header.NoBody && h.HasLength:
		b = c.appendLength(b, 0)
	}
	if h.Trailers {
		b = e.field(b, "te", "trailers")
	}
	if h.Expect100 {
		b = e.field(b, "expect", "100-continue")
	}
	return b
}

func (c *Conn) appendResponse(b []byte, h *header.Head) []byte {
	b = c.appendStatus(b, h.Status)
	b = c.appendFields(b, h.Fields.Fields, false)
	if h.Status >= 200 && h.Status != 204 && (h.HasLength || h.Framing == header.Length) {
		b = c.appendLength(b, h.Length)
	}
	return b
}

func (c *Conn) appendStatus(b []byte, status int) []byte {
	var text [20]byte
	digits := strconv.AppendInt(text[:0], int64(status), 10)
	for i := 8; i <= 14; i++ {
		if staticTable[i-1].Value == string(digits) {
			return appendInt(b, 0x80, 7, uint64(i))
		}
	}
	return c.enc.fieldBytes(b, ":status", digits)
}

func (c *Conn) appendLength(b []byte, n int64) []byte {
	var text [20]byte
	return c.enc.fieldBytes(b, "content-length", strconv.AppendInt(text[:0], n, 10))
}

// appendFields appends what is not the codec's own: fields about the
// connection have no place in HTTP/2 (RFC 9113 section 8.2.2).
func (c *Conn) appendFields(b []byte, fields []header.Field, hasAuthority bool) []byte {
	for i := range fields {
		name := fields[i].Name
		switch name {
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings", "content-length", "te":
			continue
		case "host":
			if hasAuthority {
				continue
			}
		}
		if name == "" || name[0] == ':' {
			continue
		}
		b = c.enc.field(b, name, fields[i].Value)
	}
	return b
}

// WriteTrailers ends the body with trailer fields; without any it just ends it.
func (s *Stream) WriteTrailers(fields []header.Field) error {
	if len(fields) == 0 {
		return s.WriteData(nil, true)
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.mayWrite(); err != nil {
		return err
	}
	b := c.output.buf
	from := len(b)
	b = appendFrame(b, 0, frameHeaders, flagEndHeaders, s.id)
	b = c.appendFields(c.enc.begin(b), fields, false)
	c.output.buf = c.closeBlock(b, from, true)
	return s.wrote(true)
}

// WriteData queues part of the body; end: it was the last, and no trailers
// follow. It waits for the peer's window, and for the peer to read, at most
// until SetWriteBy's time; what was queued before is on its way then. The
// caller may use b again.
func (s *Stream) WriteData(b []byte, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := s.mayWrite(); err != nil {
			return err
		}
		if len(c.output.buf) > outputLimit {
			if err := s.waitRoom(); err != nil {
				return err
			}
			continue
		}
		n := min(int64(len(b)), int64(c.peer.frame), s.sendWindow, c.sendWindow)
		if n <= 0 && len(b) > 0 {
			if err := s.waitWindow(); err != nil {
				return err
			}
			continue
		}
		last := int(n) == len(b)
		if n > 0 || end {
			flags := byte(0)
			if last && end {
				flags = flagEndStream
			}
			c.output.buf = append(appendFrame(c.output.buf, int(n), frameData, flags, s.id), b[:n]...)
			s.sendWindow -= n
			c.sendWindow -= n
			c.earn()
		}
		b = b[n:]
		if err := s.wrote(last && end); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}

// waitRoom waits until the output has been written, or writes it. With mu held.
func (s *Stream) waitRoom() error {
	c := s.c
	if !c.output.writing {
		return c.flush()
	}
	return s.waitWrite(func() { c.output.room.Wait() })
}

// waitWindow waits for WINDOW_UPDATE or SETTINGS.
func (s *Stream) waitWindow() error {
	c := s.c
	if err := c.flush(); err != nil {
		return err
	}
	if s.sendWindow > 0 && c.sendWindow > 0 || s.err != nil { // it came while we flushed
		return nil
	}
	c.blocked++
	defer func() { c.blocked-- }()
	return s.waitWrite(s.writable.Wait)
}

func (s *Stream) waitWrite(wait func()) error {
	s.writeExpired, s.writing = false, true
	if s.waitBy = s.writeBy; s.waitBy.IsZero() && s.c.opts.WriteWait > 0 {
		s.waitBy = time.Now().Add(s.c.opts.WriteWait)
	}
	if !s.waitBy.IsZero() {
		s.c.timer.arm(s.waitBy)
	}
	wait()
	s.writing = false
	if s.writeExpired {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// SetWriteBy bounds the waits of WriteData; the zero time leaves that to
// Options.WriteWait.
func (s *Stream) SetWriteBy(t time.Time) {
	s.c.mu.Lock()
	s.writeBy, s.waitBy = t, t
	if s.writing && !t.IsZero() {
		s.c.timer.arm(t)
	}
	s.c.mu.Unlock()
}

// Flush sees to it that everything queued gets written: by this goroutine, or
// by another that is writing already. Its error is the connection's.
func (s *Stream) Flush() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil && s.err != nil {
		return s.err
	}
	return c.flush()
}
