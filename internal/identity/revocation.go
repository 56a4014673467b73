package identity

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// revocationLists reads PEM. A text without a list is an error: whoever names a
// list wants certificates to be checked.
func revocationLists(text []byte) ([]*x509.RevocationList, error) {
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("revocation list: %w", err)
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return nil, errors.New("the revocation list holds none")
	}
	return lists, nil
}

// unrevoked: one chain that the lists do not break is enough. As in Envoy,
// where there are lists at all, each issuer needs one that is in force.
func unrevoked(chains [][]*x509.Certificate, lists []*x509.RevocationList) (err error) {
	if len(lists) == 0 {
		return nil
	}
	for _, chain := range chains {
		if err = chainUnrevoked(chain, lists); err == nil {
			return nil
		}
	}
	return err
}

func chainUnrevoked(chain []*x509.Certificate, lists []*x509.RevocationList) error {
	for i, c := range chain[:len(chain)-1] {
		issuer, spoken := chain[i+1], false
		for _, list := range lists {
			if list.CheckSignatureFrom(issuer) != nil || !list.NextUpdate.IsZero() && time.Now().After(list.NextUpdate) {
				continue
			}
			spoken = true
			for _, r := range list.RevokedCertificateEntries {
				if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return &VerifyError{Reason: Revoked, Detail: "serial " + c.SerialNumber.Text(16)}
				}
			}
		}
		if !spoken {
			return &VerifyError{Reason: NoRevocationList, Detail: issuer.Subject.String()}
		}
	}
	return nil
}

// alternativeNames are a certificate's names, of every kind.
func alternativeNames(c *x509.Certificate) []string {
	out := append(slices.Clone(c.DNSNames), c.EmailAddresses...)
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

// refused is why a peer outside the mesh is not accepted: its chain, or the
// host name that it should be valid for.
func refused(err error, leaf *x509.Certificate) error {
	var name x509.HostnameError
	if errors.As(err, &name) {
		return &VerifyError{Reason: WrongSAN, Detail: err.Error()}
	}
	return &VerifyError{Reason: explain(err, leaf), Detail: err.Error()}
}

func unexpected(leaf *x509.Certificate) error {
	return &VerifyError{Reason: WrongSAN, Detail: fmt.Sprintf("none of %v is one of subjectAltNames", alternativeNames(leaf))}
}
