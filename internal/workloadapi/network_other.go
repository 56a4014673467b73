//go:build !linux

package workloadapi

import (
	"errors"
	"net"
)

func sameNetwork(net.Listener) (net.Listener, error) {
	return nil, errors.New("workload API: only Linux has network namespaces")
}
