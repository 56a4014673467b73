// Package identity is who a workload is: its SPIFFE ID, the certificate that
// proves it (SVID), the trust bundle that peers are checked against, and the
// TLS configurations for either side made of them.
package identity

import (
	"fmt"
	"strings"
)

// ID is a SPIFFE ID as Istio forms it: spiffe://<trust domain>/ns/<ns>/sa/<sa>.
type ID struct{ TrustDomain, Namespace, ServiceAccount string }

// String is the URI.
func (id ID) String() string {
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// ParseID is strict: anything that is not exactly Istio's form is an error.
func ParseID(uri string) (ID, error) {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, fmt.Errorf("%q is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>", uri)
	}
	id := ID{parts[0], parts[2], parts[4]}
	for _, s := range []string{id.TrustDomain, id.Namespace, id.ServiceAccount} {
		if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" {
			return ID{}, fmt.Errorf("%q: %q is not a valid part of a SPIFFE ID", uri, s)
		}
	}
	return id, nil
}
