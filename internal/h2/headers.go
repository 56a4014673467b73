package h2

import (
	"encoding/binary"

	"github.com/tulle-mesh/tulle/internal/header"
)

func (c *Conn) onHeaders(f *frame) error {
	if f.stream == 0 {
		return protocolError("HEADERS on stream 0")
	}
	p, err := unpad(f)
	if err != nil {
		return err
	}
	in := &c.in
	in.selfDepend = false
	if f.flags&flagPriority != 0 {
		if len(p) < 5 {
			return &ConnError{Code: FrameSizeError, Reason: "HEADERS too short for its priority"}
		}
		in.selfDepend = binary.BigEndian.Uint32(p)&0x7fffffff == f.stream
		p = p[5:]
	}
	if f.flags&flagEndHeaders != 0 {
		return c.onBlock(f.stream, f.flags&flagEndStream != 0, p)
	}
	in.block = append(in.block[:0], p...)
	in.blockID, in.blockFlags, in.continuations = f.stream, f.flags, 0
	return nil
}

func (c *Conn) onContinuation(f *frame) error {
	in := &c.in
	if in.blockID == 0 {
		return protocolError("CONTINUATION without HEADERS")
	}
	in.continuations++
	if in.continuations > maxContinuations || len(in.block)+len(f.payload) > maxBlockFactor*c.opts.MaxHeaderBytes+ourFrameSize {
		c.mu.Lock()
		c.stats.HeaderFlood++
		c.mu.Unlock()
		return &ConnError{Code: EnhanceYourCalm, Reason: "header block too long"}
	}
	in.block = append(in.block, f.payload...)
	if f.flags&flagEndHeaders == 0 {
		return nil
	}
	id := in.blockID
	in.blockID = 0
	return c.onBlock(id, in.blockFlags&flagEndStream != 0, in.block)
}

// onBlock handles a complete header block.
func (c *Conn) onBlock(id uint32, end bool, block []byte) error {
	if id%2 == 0 {
		return protocolError("HEADERS on a stream that only a server could open")
	}
	c.mu.Lock()
	s := c.streams[id]
	if s == nil && c.opts.Server && id > c.lastID {
		s = c.newStream()
		c.mu.Unlock()
		return c.onRequest(s, id, end, block)
	}
	defer c.unlock()
	switch {
	case s == nil:
		return c.strayBlock(id, block)
	case s.recvEnd:
		if err := c.discard(block); err != nil {
			return err
		}
		return c.resetPeer(s, StreamClosed, "HEADERS after the end of the stream")
	case s.headRead:
		return c.onTrailers(s, end, block)
	}
	return c.onResponse(s, end, block)
}

// discard decodes a block nobody wants, to keep the tables in step.
func (c *Conn) discard(block []byte) error {
	in := &c.in
	in.scrap.arena.reset()
	in.msg.begin(&in.scrap.head, &in.scrap.arena, &c.opts, false)
	return c.decode(block)
}

func (c *Conn) decode(block []byte) error {
	if err := c.in.dec.decode(block, &c.in.msg); err != nil {
		return &ConnError{Code: CompressionError, Reason: err.Error()}
	}
	return nil
}

// strayBlock is a header block for a stream that is over.
func (c *Conn) strayBlock(id uint32, block []byte) error {
	if err := c.discard(block); err != nil {
		return err
	}
	if c.idle(id) {
		return protocolError("HEADERS on an idle stream")
	}
	if c.reset.has(id) || !c.opts.Server {
		return nil
	}
	return &ConnError{Code: StreamClosed, Reason: "HEADERS on a closed stream"}
}

// onRequest is a new stream; nobody but us knows s yet, so that its block is
// decoded without the lock.
func (c *Conn) onRequest(s *Stream, id uint32, end bool, block []byte) error {
	m := &c.in.msg
	m.begin(&s.head, &s.arena, &c.opts, false)
	err := c.decode(block)
	m.finish(end, "")
	c.mu.Lock()
	defer c.unlock()
	if err != nil || c.err != nil {
		return err
	}
	c.lastID = id
	if id > c.sentLast { // our GOAWAY told the client that we ignore it
		c.reset.add(id)
		c.recycle(s)
		return nil
	}
	limit := int(c.opts.MaxConcurrentStreams)
	if len(c.streams) >= limit || c.held >= 2*limit {
		// The second bound is for streams that the client has reset and our
		// side still works on.
		c.stats.Refused++
		c.recycle(s)
		return c.refuse(id, RefusedStream)
	}
	s.open(id)
	c.earn()
	s.headRead, s.declared = true, declared(m)
	if end {
		s.endRecv()
	}
	switch {
	case c.in.selfDepend:
		return c.reject(s, "a stream that depends on itself")
	case m.tooLarge:
		return c.rejectLarge(s)
	case m.bad != "":
		return c.reject(s, "malformed request: "+m.bad)
	}
	c.hold()
	c.in.fresh = append(c.in.fresh, s)
	return nil
}

// reject resets a new stream that its handler never sees.
func (c *Conn) reject(s *Stream, reason string) error {
	err := c.resetPeer(s, ProtocolError, reason)
	c.recycle(s)
	return err
}

// rejectLarge answers 431, as Envoy does, instead of resetting, so that the
// caller learns what was wrong.
func (c *Conn) rejectLarge(s *Stream) error {
	c.stats.HeadersTooLarge++
	b := c.output.buf
	from := len(b)
	b = appendFrame(b, 0, frameHeaders, flagEndHeaders|flagEndStream, s.id)
	b = c.enc.field(c.enc.begin(b), ":status", "431")
	setLength(b, from)
	c.output.buf = b
	c.in.answered = true
	s.sentEnd = true
	var err error
	if !s.recvEnd {
		c.output.buf = appendReset(c.output.buf, s.id, NoError)
		c.reset.add(s.id)
		err = c.countReset()
	}
	delete(c.streams, s.id)
	c.recycle(s)
	return err
}

// declared is the length that DATA must have, -1 if it is not known.
func declared(m *message) int64 {
	if m.h.HasLength {
		return m.h.Length
	}
	return -1
}

func (c *Conn) onTrailers(s *Stream, end bool, block []byte) error {
	m := &c.in.msg
	head := &c.in.scrap.head
	m.begin(head, &s.arena, &c.opts, true)
	if err := c.decode(block); err != nil {
		return err
	}
	switch {
	case !end:
		return c.resetPeer(s, ProtocolError, "trailers that do not end the stream")
	case c.in.selfDepend:
		return c.resetPeer(s, ProtocolError, "a stream that depends on itself")
	case m.tooLarge:
		c.stats.HeadersTooLarge++
		return c.resetPeer(s, ProtocolError, "trailers too large")
	case m.bad != "":
		return c.resetPeer(s, ProtocolError, "malformed trailers: "+m.bad)
	case s.declared >= 0 && s.got != s.declared:
		return c.resetPeer(s, ProtocolError, "content-length and DATA disagree")
	}
	s.trailers, head.Fields = head.Fields, s.trailers
	s.endRecv()
	c.wakeReader(s)
	return nil
}

// onResponse is a response's head, final or interim.
func (c *Conn) onResponse(s *Stream, end bool, block []byte) error {
	m := &c.in.msg
	if s.heads == len(s.pending) {
		s.pending = append(s.pending, pendingHead{})
	}
	h := &s.pending[s.heads].head
	m.begin(h, &s.arena, &c.opts, false)
	if err := c.decode(block); err != nil {
		return err
	}
	m.finish(end, s.method)
	interim := h.Status < 200
	switch {
	case m.tooLarge:
		c.stats.HeadersTooLarge++
		return c.resetPeer(s, ProtocolError, "response head too large")
	case m.bad != "":
		return c.resetPeer(s, ProtocolError, "malformed response: "+m.bad)
	case interim && end:
		return c.resetPeer(s, ProtocolError, "an interim response that ends the stream")
	case interim && s.heads >= maxInterim:
		return c.resetPeer(s, EnhanceYourCalm, "too many interim responses")
	}
	s.heads++
	if !interim {
		s.headRead = true
		if s.declared = declared(m); h.Framing == header.NoBody {
			s.declared = 0
		}
		if end {
			s.endRecv()
		}
	}
	c.wakeReader(s)
	return nil
}

// setLength writes the payload length of the frame that began at from.
func setLength(b []byte, from int) {
	n := len(b) - from - frameHeader
	b[from], b[from+1], b[from+2] = byte(n>>16), byte(n>>8), byte(n)
}
