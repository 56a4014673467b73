package h2

import "encoding/binary"

// Frame types (RFC 9113 section 6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindow
	frameContinuation
)

// Flags; the same bit means different things on different frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
const (
	setTableSize       = 1
	setPush            = 2
	setStreams         = 3
	setWindow          = 4
	setFrameSize       = 5
	setHeaderList      = 6
	setExtendedConnect = 8
)

// drainPing is the payload of the PING between the two GOAWAYs, keepPing of
// the one that asks whether the peer is there.
const (
	drainPing = 0x74756c6c65000001
	keepPing  = 0x74756c6c65000002
)

func appendFrame(b []byte, length int, kind, flags byte, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendReset(b []byte, stream uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameReset, 0, stream), uint32(code))
}

func appendWindow(b []byte, stream uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindow, 0, stream), uint32(n))
}

func appendPing(b []byte, ack bool, data uint64) []byte {
	flags := byte(0)
	if ack {
		flags = flagAck
	}
	return binary.BigEndian.AppendUint64(appendFrame(b, 8, framePing, flags, 0), data)
}

func appendGoAway(b []byte, last uint32, code Code, reason string) []byte {
	b = appendFrame(b, 8+len(reason), frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, reason...)
}

func appendSetting(b []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), value)
}

// appendSettings queues our SETTINGS, and the WINDOW_UPDATE that makes the
// connection's window what we want it to be.
func (c *Conn) appendSettings() {
	o := &c.opts
	var s []byte
	if o.Server {
		s = appendSetting(s, setStreams, o.MaxConcurrentStreams)
		if o.ExtendedConnect {
			s = appendSetting(s, setExtendedConnect, 1)
		}
	} else {
		s = appendSetting(s, setPush, 0)
	}
	s = appendSetting(s, setWindow, o.StreamWindow)
	s = appendSetting(s, setHeaderList, uint32(o.MaxHeaderBytes))
	b := appendFrame(c.output.buf, len(s), frameSettings, 0, 0)
	b = append(b, s...)
	if more := c.recvWindow - defaultWindow; more > 0 {
		b = appendWindow(b, 0, more)
	}
	c.output.buf = b
}
