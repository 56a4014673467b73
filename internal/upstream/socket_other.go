//go:build !linux

package upstream

import (
	"errors"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func setMark(int, int) error { return errors.New("socket marks exist on Linux only") }

func setKeepalive(int, *ir.Keepalive) error {
	return errors.New("TCP keepalive settings are supported on Linux only")
}

func (c *Conn) peekFD(uintptr) bool {
	c.alive = true
	return true
}
