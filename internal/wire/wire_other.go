//go:build !linux || !(amd64 || arm64)

package wire

const supported = false

func (c *Conn) recvFD(uintptr) bool { return true }

func peekFD(uintptr) bool { return true }

func (c *Conn) sendFD(uintptr) bool { return true }
