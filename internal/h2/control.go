package h2

import "encoding/binary"

func (c *Conn) onSettings(f *frame) error {
	p := f.payload
	switch {
	case f.stream != 0:
		return protocolError("SETTINGS on a stream")
	case f.flags&flagAck != 0:
		if len(p) != 0 {
			return &ConnError{Code: FrameSizeError, Reason: "SETTINGS acknowledgement with a payload"}
		}
		c.mu.Lock()
		c.acked = true
		c.mu.Unlock()
		return c.flooded()
	case len(p)%6 != 0:
		return &ConnError{Code: FrameSizeError, Reason: "SETTINGS are not pairs of id and value"}
	}
	if c.in.settled {
		if err := c.flooded(); err != nil {
			return err
		}
	}
	c.in.settled = true
	c.mu.Lock()
	defer c.unlock()
	if !c.peer.seen {
		if c.err == nil {
			close(c.settled)
		}
		// No limit until the peer names one (RFC 9113 section 6.5.2); before
		// its SETTINGS we assumed a small one.
		c.peer.seen, c.peer.streams = true, maxStreamID
	}
	for ; len(p) > 0; p = p[6:] {
		if err := c.setting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	c.output.buf = appendFrame(c.output.buf, 0, frameSettings, flagAck, 0)
	c.in.answered = true
	c.wakeBlocked()
	return nil
}

func (c *Conn) setting(id uint16, v uint32) error {
	switch id {
	case setTableSize:
		c.enc.setMax(v)
	case setPush:
		if v > 1 || v == 1 && !c.opts.Server {
			return protocolError("SETTINGS_ENABLE_PUSH out of range")
		}
	case setStreams:
		c.peer.streams = v
	case setWindow:
		if v > maxWindow {
			return &ConnError{Code: FlowControlError, Reason: "SETTINGS_INITIAL_WINDOW_SIZE out of range"}
		}
		// The difference applies to open streams too and may make their
		// windows negative (RFC 9113 section 6.9.2).
		diff := int64(v) - c.peer.window
		c.peer.window = int64(v)
		for _, s := range c.streams {
			if s.sendWindow += diff; s.sendWindow > maxWindow {
				return &ConnError{Code: FlowControlError, Reason: "a stream's window overflows"}
			}
		}
	case setFrameSize:
		if v < 16384 || v > 1<<24-1 {
			return protocolError("SETTINGS_MAX_FRAME_SIZE out of range")
		}
		// Larger frames would let one stream hold up the others.
	case setExtendedConnect:
		if v > 1 || v == 0 && c.peer.extendedConnect {
			return protocolError("SETTINGS_ENABLE_CONNECT_PROTOCOL out of range")
		}
		c.peer.extendedConnect = v == 1
	}
	return nil
}

func (c *Conn) onPing(f *frame) error {
	if f.stream != 0 {
		return protocolError("PING on a stream")
	}
	if len(f.payload) != 8 {
		return &ConnError{Code: FrameSizeError, Reason: "PING is not 8 bytes"}
	}
	if !c.earnedPing() {
		if err := c.flooded(); err != nil {
			return err
		}
	}
	data := binary.BigEndian.Uint64(f.payload)
	c.mu.Lock()
	defer c.unlock()
	if f.flags&flagAck == 0 {
		c.output.buf = appendPing(c.output.buf, true, data)
		c.in.answered = true
		return nil
	}
	switch {
	case data == keepPing:
		c.timer.asked = false
	case data == drainPing && c.drainPing:
		c.in.answered = true
		c.drained()
	}
	return nil
}

func (c *Conn) onGoAway(f *frame) error {
	if f.stream != 0 {
		return protocolError("GOAWAY on a stream")
	}
	if len(f.payload) < 8 {
		return &ConnError{Code: FrameSizeError, Reason: "GOAWAY is too short"}
	}
	if err := c.flooded(); err != nil {
		return err
	}
	last := binary.BigEndian.Uint32(f.payload) & 0x7fffffff
	code := Code(binary.BigEndian.Uint32(f.payload[4:]))
	c.mu.Lock()
	defer c.unlock()
	c.peerGone = true
	if !c.opts.Server {
		for id, s := range c.streams {
			if id > last {
				delete(c.streams, id)
				s.registered = false
				s.fail(ErrUnprocessed)
			}
		}
	}
	c.peerCode = code // why, should the connection end under open streams
	c.due.goAway = true
	return nil
}
