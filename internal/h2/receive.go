package h2

import "encoding/binary"

// onFrame handles one frame. An error ends the connection.
func (c *Conn) onFrame(f *frame) error {
	in := &c.in
	if in.blockID != 0 && (f.kind != frameContinuation || f.stream != in.blockID) {
		return protocolError("a header block is interrupted")
	}
	if !in.settled && (f.kind != frameSettings || f.flags&flagAck != 0) {
		return protocolError("the first frame is not SETTINGS")
	}
	switch f.kind {
	case frameData:
		return c.onData(f)
	case frameHeaders:
		return c.onHeaders(f)
	case frameContinuation:
		return c.onContinuation(f)
	case frameWindow:
		return c.onWindow(f)
	case frameReset:
		return c.onReset(f)
	case frameSettings:
		return c.onSettings(f)
	case framePing:
		return c.onPing(f)
	case frameGoAway:
		return c.onGoAway(f)
	case framePriority:
		return c.onPriority(f)
	case framePush:
		return protocolError("PUSH_PROMISE was not allowed")
	}
	return c.flooded() // unknown frames are ignored (RFC 9113 section 5.5)
}

// unpad takes the padding off a DATA or HEADERS payload.
func unpad(f *frame) ([]byte, error) {
	p := f.payload
	if f.flags&flagPadded == 0 {
		return p, nil
	}
	if len(p) == 0 {
		return nil, &ConnError{Code: FrameSizeError, Reason: "padded frame without padding length"}
	}
	if int(p[0]) >= len(p) {
		return nil, protocolError("padding longer than the frame")
	}
	return p[1 : len(p)-int(p[0])], nil
}

func (c *Conn) onData(f *frame) error {
	if f.stream == 0 {
		return protocolError("DATA on stream 0")
	}
	data, err := unpad(f)
	if err != nil {
		return err
	}
	end := f.flags&flagEndStream != 0
	if len(data) == 0 && !end {
		if err := c.flooded(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.unlock()
	size := int64(len(f.payload))
	if size > c.recvWindow {
		return &ConnError{Code: FlowControlError, Reason: "DATA beyond the connection's window"}
	}
	c.recvWindow -= size
	if !c.opts.Server {
		c.restoreNow(size)
	}
	s := c.streams[f.stream]
	if s == nil || s.recvEnd {
		c.creditUnread(size)
		return c.strayData(f.stream, s)
	}
	if size > s.recvWindow {
		c.creditUnread(size)
		return c.resetPeer(s, FlowControlError, "DATA beyond the stream's window")
	}
	s.recvWindow -= size
	s.got += int64(len(data))
	switch {
	case !s.headRead:
		c.creditUnread(size)
		return c.resetPeer(s, ProtocolError, "DATA before the response's head")
	case s.declared >= 0 && (s.got > s.declared || end && s.got < s.declared):
		c.creditUnread(size)
		return c.resetPeer(s, ProtocolError, "content-length and DATA disagree")
	}
	s.received = append(s.received, data...)
	if padding := size - int64(len(data)); padding > 0 {
		s.giveBack(padding)
		c.in.answered = true
	}
	if end {
		s.endRecv()
	}
	c.wakeReader(s)
	return nil
}

// restoreNow gives a server its connection window back for what has just
// arrived. Were it to wait for the consumers, a few callers who stop reading
// would stop everybody whose responses share the connection; what they leave
// unread is bounded by their streams' windows and by how many streams we open.
// A server cannot do so: its client decides how many streams there are.
func (c *Conn) restoreNow(n int64) {
	before := len(c.output.buf)
	c.restore(n)
	if len(c.output.buf) > before {
		c.in.answered = true
	}
}

// creditUnread returns the window of DATA that no consumer will take.
func (c *Conn) creditUnread(n int64) {
	c.credit(n)
	c.in.answered = true
}

// strayData is DATA on a stream that takes none.
func (c *Conn) strayData(id uint32, s *Stream) error {
	if s != nil {
		return c.resetPeer(s, StreamClosed, "DATA after the end of the stream")
	}
	if c.idle(id) {
		return protocolError("DATA on an idle stream")
	}
	if c.reset.has(id) || !c.opts.Server {
		return nil
	}
	return c.refuse(id, StreamClosed)
}

// idle reports whether a stream has not existed yet.
func (c *Conn) idle(id uint32) bool {
	if id%2 == 0 {
		return true // a server's stream: we accept no pushes and send none
	}
	if c.opts.Server {
		return id > c.lastID
	}
	return id >= c.nextID
}

// refuse resets a stream that has no Stream. With mu held.
func (c *Conn) refuse(id uint32, code Code) error {
	c.output.buf = appendReset(c.output.buf, id, code)
	c.in.answered = true
	c.reset.add(id)
	return c.countReset()
}

// resetPeer resets a stream for what the peer sent on it. The peer can make us
// do that as cheaply as it can reset streams itself, so both count alike.
func (c *Conn) resetPeer(s *Stream, code Code, reason string) error {
	c.stats.StreamErrors++
	s.reset(code, &StreamError{Code: code, Reason: reason})
	c.in.answered = true
	return c.countReset()
}

// countReset bounds resets (CVE-2023-44487 and CVE-2025-8671). With mu held.
func (c *Conn) countReset() error {
	if !c.opts.Server || c.in.resets.take() {
		return nil
	}
	c.stats.RapidResets++
	return &ConnError{Code: EnhanceYourCalm, Reason: "too many streams were reset"}
}

func (c *Conn) onReset(f *frame) error {
	if f.stream == 0 {
		return protocolError("RST_STREAM on stream 0")
	}
	if len(f.payload) != 4 {
		return &ConnError{Code: FrameSizeError, Reason: "RST_STREAM is not 4 bytes"}
	}
	c.mu.Lock()
	defer c.unlock()
	if c.idle(f.stream) {
		return protocolError("RST_STREAM on an idle stream")
	}
	c.stats.ResetsReceived++
	if s := c.streams[f.stream]; s != nil {
		delete(c.streams, f.stream)
		s.registered = false
		s.fail(&StreamError{Code: Code(binary.BigEndian.Uint32(f.payload)), Remote: true})
	}
	return c.countReset()
}

func (c *Conn) onWindow(f *frame) error {
	if len(f.payload) != 4 {
		return &ConnError{Code: FrameSizeError, Reason: "WINDOW_UPDATE is not 4 bytes"}
	}
	n := int64(binary.BigEndian.Uint32(f.payload) & 0x7fffffff)
	c.mu.Lock()
	defer c.unlock()
	if c.budget--; c.budget < 0 {
		c.stats.WindowFlood++
		return &ConnError{Code: EnhanceYourCalm, Reason: "too many WINDOW_UPDATEs"}
	}
	if f.stream == 0 {
		if n == 0 {
			return protocolError("WINDOW_UPDATE of 0")
		}
		if c.sendWindow += n; c.sendWindow > maxWindow {
			return &ConnError{Code: FlowControlError, Reason: "the connection's window overflows"}
		}
		c.wakeBlocked()
		return nil
	}
	if c.idle(f.stream) {
		return protocolError("WINDOW_UPDATE on an idle stream")
	}
	s := c.streams[f.stream]
	if s == nil {
		return nil
	}
	if n == 0 {
		return c.resetPeer(s, ProtocolError, "WINDOW_UPDATE of 0")
	}
	if s.sendWindow += n; s.sendWindow > maxWindow {
		return c.resetPeer(s, FlowControlError, "the stream's window overflows")
	}
	s.writable.Signal()
	return nil
}

// wakeBlocked lets the streams try again that wait for a window.
func (c *Conn) wakeBlocked() {
	if c.blocked == 0 {
		return
	}
	for _, s := range c.streams {
		s.writable.Signal()
	}
}

func (c *Conn) onPriority(f *frame) error {
	if f.stream == 0 {
		return protocolError("PRIORITY on stream 0")
	}
	if len(f.payload) != 5 {
		return c.badPriority(f.stream, FrameSizeError, "PRIORITY is not 5 bytes")
	}
	if binary.BigEndian.Uint32(f.payload)&0x7fffffff == f.stream {
		return c.badPriority(f.stream, ProtocolError, "a stream that depends on itself")
	}
	return c.flooded() // priorities are deprecated (RFC 9113 section 5.3) and ignored
}

// badPriority is a stream error if there is a stream that can be reset.
func (c *Conn) badPriority(id uint32, code Code, reason string) error {
	c.mu.Lock()
	defer c.unlock()
	if s := c.streams[id]; s != nil {
		return c.resetPeer(s, code, reason)
	}
	return &ConnError{Code: code, Reason: reason}
}
