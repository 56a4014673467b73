package h2

import (
	"bytes"
	"io"
	"net"

	"github.com/tulle-mesh/tulle/internal/header"
)

// A connection begins with room for headers and small messages. inputSize, which
// one with more to read grows to, holds a frame of the largest size we accept
// and another record.
const (
	firstInput = 4 << 10
	inputSize  = 32 << 10
)

// input belongs to the reading goroutine.
type input struct {
	buf  []byte
	r, w int
	full bool // the last read filled buf
	dec  decoder
	msg  message
	// scrap is for trailers before they are accepted and blocks nobody wants.
	scrap struct {
		head  header.Head
		arena arena
	}

	block         []byte // a header block in pieces
	blockID       uint32 // the stream it belongs to; 0: none is open
	blockFlags    byte
	selfDepend    bool
	continuations int

	settled  bool      // the peer's first SETTINGS were read
	wake     []*Stream // whose owner waits for what this batch brought
	fresh    []*Stream // for Handler
	control  bucket
	resets   bucket
	answered bool // control frames were queued
}

func (in *input) init(buffered []byte) {
	in.buf = make([]byte, max(firstInput, len(buffered)))
	in.w = copy(in.buf, buffered)
	in.dec = newDecoder()
	in.control, in.resets = newBucket(controlBurst, controlRate), newBucket(resetBurst, resetRate)
}

// fill reads once, behind what is there. A read that took all the room had more
// to take: the next one has twice as much.
func (in *input) fill(nc net.Conn) error {
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if len(in.buf)-in.r < frameHeader+ourFrameSize || in.w == len(in.buf) {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if (in.full || in.w == len(in.buf)) && len(in.buf) < inputSize {
		in.buf = append(make([]byte, 0, 2*len(in.buf)), in.buf[:in.w]...)
		in.buf = in.buf[:cap(in.buf)]
	}
	n, err := nc.Read(in.buf[in.w:])
	in.w += n
	in.full = in.w == len(in.buf)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// frame is a frame's header and its payload, which lies in the read buffer.
type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

// next takes the next frame that is complete; ok is false when there is none.
func (in *input) next(f *frame) (ok bool, err error) {
	b := in.buf[in.r:in.w]
	if len(b) < frameHeader {
		return false, nil
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if n > ourFrameSize {
		if bytes.HasPrefix(b, []byte("HTTP/1.")) {
			return false, protocolError("the peer answers in HTTP/1: its port is taken for HTTP/2 by its name or appProtocol")
		}
		return false, &ConnError{Code: FrameSizeError, Reason: "frame larger than we accept"}
	}
	if len(b) < frameHeader+n {
		return false, nil
	}
	f.kind, f.flags = b[3], b[4]
	f.stream = uint32(b[5]&0x7f)<<24 | uint32(b[6])<<16 | uint32(b[7])<<8 | uint32(b[8])
	f.payload = b[frameHeader : frameHeader+n : frameHeader+n]
	in.r += frameHeader + n
	return true, nil
}

func (c *Conn) readLoop() error {
	if c.opts.Server {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	var f frame
	for {
		for {
			ok, err := c.in.next(&f)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := c.onFrame(&f); err != nil {
				return err
			}
		}
		if err := c.endBatch(); err != nil {
			return err
		}
		if err := c.in.fill(c.nc); err != nil {
			if err == io.EOF && c.in.r < c.in.w {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		c.timer.reads.Add(1)
	}
}

func (c *Conn) readPreface() error {
	in := &c.in
	for {
		have := in.buf[in.r:in.w]
		if n := min(len(have), len(Preface)); !bytes.Equal(have[:n], []byte(Preface[:n])) {
			return protocolError("not an HTTP/2 preface")
		}
		if len(have) >= len(Preface) {
			in.r += len(Preface)
			return nil
		}
		if err := in.fill(c.nc); err != nil {
			return err
		}
	}
}

// endBatch runs when the read buffer holds no complete frame any more: new
// streams go to Handler, waiting owners wake once for all that came, and the
// answers to control frames are written together.
func (c *Conn) endBatch() error {
	in := &c.in
	for i, s := range in.fresh {
		in.fresh[i] = nil
		c.mu.Lock()
		dead := s.err != nil
		if dead {
			// Reset before its handler knew of it: nothing was started.
			s.release()
		}
		c.unlock()
		if !dead {
			c.opts.Handler(s)
		}
	}
	in.fresh = in.fresh[:0]
	if len(in.wake) == 0 && !in.answered {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range in.wake {
		in.wake[i] = nil
		s.queued = false
		s.readable.Signal()
	}
	in.wake = in.wake[:0]
	if in.answered {
		in.answered = false
		c.flushAsync()
		return c.checkControl()
	}
	return nil
}

// wakeReader notes that s has something for its owner. With mu held.
func (c *Conn) wakeReader(s *Stream) {
	if !s.queued {
		s.queued = true
		c.in.wake = append(c.in.wake, s)
	}
}

// flooded takes a token for a frame that costs the peer nothing.
func (c *Conn) flooded() error {
	if c.in.control.take() {
		return nil
	}
	c.mu.Lock()
	c.stats.ControlFlood++
	c.mu.Unlock()
	return &ConnError{Code: EnhanceYourCalm, Reason: "too many control frames"}
}
