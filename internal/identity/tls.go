package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reason is why a peer was not accepted.
type Reason string

const (
	NoCertificate    Reason = "no certificate"
	Expired          Reason = "certificate has expired"
	NotYetValid      Reason = "certificate is not yet valid"
	UnknownAuthority Reason = "certificate is not signed by the trust bundle"
	Withdrawn        Reason = "certificate is signed by a root that was removed from the trust bundle"
	SelfSigned       Reason = "certificate is self-signed"
	WrongUsage       Reason = "certificate may not be used for this side of TLS"
	NoSPIFFE         Reason = "certificate does not carry exactly one SPIFFE ID"
	WrongTrustDomain Reason = "trust domain is not ours"
	Revoked          Reason = "certificate was revoked"
	NoRevocationList Reason = "no revocation list of its issuer is in force"
	WrongSAN         Reason = "name is not one that is expected"
)

// VerifyError says which rule a peer's certificate broke.
type VerifyError struct {
	Reason Reason
	Peer   string // its SPIFFE ID where it has one
	Detail string
}

func (e *VerifyError) Error() string {
	s := "peer"
	if e.Peer != "" {
		s += " " + e.Peer
	}
	s += ": " + string(e.Reason)
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

// labels name the reasons in metrics.
var labels = map[Reason]string{
	NoCertificate: "no_certificate", Expired: "expired", NotYetValid: "not_yet_valid", UnknownAuthority: "unknown_authority", Withdrawn: "withdrawn_authority",
	SelfSigned: "self_signed", WrongUsage: "wrong_usage", NoSPIFFE: "no_spiffe_id", WrongTrustDomain: "wrong_trust_domain", WrongSAN: "wrong_san",
	Revoked: "revoked", NoRevocationList: "no_revocation_list",
}

// PeerRefused is the reason as metrics name it.
func (e *VerifyError) PeerRefused() string { return labels[e.Reason] }

// ServerOptions of a mutual TLS listener.
type ServerOptions struct {
	RequireClientCert bool
	Accept            func(uri string) bool // peer's SPIFFE ID; nil: any of the trust domain
	ALPN              []string
	MinVersion        uint16 // default TLS 1.2
	MaxVersion        uint16
	CipherSuites      []uint16      // of TLS 1.2; nil: Go's choice
	Curves            []tls.CurveID // of the key exchange; nil: Go's choice
}

// Server returns a configuration that presents the current SVID. It follows
// rotation by itself. Peers are verified in VerifyConnection, which also runs
// when a session is resumed: a root that was withdrawn ends its sessions.
func (h *Holder) Server(o ServerOptions) *tls.Config {
	c := &tls.Config{
		MinVersion: max(o.MinVersion, tls.VersionTLS12), MaxVersion: o.MaxVersion, CipherSuites: o.CipherSuites, CurvePreferences: o.Curves, NextProtos: o.ALPN,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate() },
		WrapSession:    h.wrapSession, UnwrapSession: h.unwrapSession,
	}
	if o.RequireClientCert {
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			return h.verify(cs, x509.ExtKeyUsageClientAuth, o.Accept)
		}
	}
	return c
}

// ClientOptions of a mutual TLS connection.
type ClientOptions struct {
	SNI    string
	Accept func(uri string) bool // server's SPIFFE ID; nil: any of the trust domain
	ALPN   []string

	MinVersion   uint16 // default TLS 1.2
	CipherSuites []uint16
	Curves       []tls.CurveID
}

// Client returns a configuration for dialling mesh workloads: names play no
// role, the server is who its SPIFFE ID says.
func (h *Holder) Client(o ClientOptions) *tls.Config {
	return &tls.Config{
		MinVersion: max(o.MinVersion, tls.VersionTLS12), CipherSuites: o.CipherSuites, CurvePreferences: o.Curves, NextProtos: o.ALPN, ServerName: o.SNI,
		// The check of names and chains is VerifyConnection's: crypto/tls would
		// look for a DNS name, which SVIDs do not have.
		InsecureSkipVerify:   true,
		VerifyConnection:     func(cs tls.ConnectionState) error { return h.verify(cs, x509.ExtKeyUsageServerAuth, o.Accept) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.certificate() },
		ClientSessionCache:   h.sessions,
	}
}

func (h *Holder) certificate() (*tls.Certificate, error) {
	s := h.current.Load()
	if s == nil {
		return nil, errors.New("this workload has no certificate yet")
	}
	return s.cert, nil
}

// verify checks a peer's chain against the current bundle, then its SPIFFE ID.
func (h *Holder) verify(cs tls.ConnectionState, usage x509.ExtKeyUsage, accept func(string) bool) error {
	if len(cs.PeerCertificates) == 0 {
		return &VerifyError{Reason: NoCertificate}
	}
	s := h.current.Load()
	if s == nil {
		return errors.New("this workload has no trust bundle yet")
	}
	leaf := cs.PeerCertificates[0]
	uri := ""
	if len(leaf.URIs) == 1 {
		uri = leaf.URIs[0].String()
	}
	if err := s.verifyChain(cs.PeerCertificates, usage); err != nil {
		return &VerifyError{s.explainVerify(err, cs.PeerCertificates, usage), uri, err.Error()}
	}
	id, err := ParseID(uri)
	switch {
	case err != nil:
		return &VerifyError{Reason: NoSPIFFE, Peer: uri}
	// What is accepted may lie in other trust domains: the mesh's aliases.
	case accept != nil && accept(uri), accept == nil && id.TrustDomain == h.trustDomain:
		return nil
	case id.TrustDomain != h.trustDomain:
		return &VerifyError{WrongTrustDomain, uri, "ours is " + h.trustDomain}
	}
	return &VerifyError{Reason: WrongSAN, Peer: uri}
}

// explainVerify says which rule a chain broke, for people and metrics: the
// connection is refused already.
func (s *state) explainVerify(err error, peer []*x509.Certificate, usage x509.ExtKeyUsage) Reason {
	reason := explain(err, peer[0])
	if reason == UnknownAuthority && len(s.withdrawn) > 0 {
		if _, err := peer[0].Verify(options(s.withdrawn, peer, usage)); err == nil {
			return Withdrawn
		}
	}
	return reason
}

func explain(err error, leaf *x509.Certificate) Reason {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) {
		switch {
		case invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
			return NotYetValid
		case invalid.Reason == x509.Expired:
			return Expired
		case invalid.Reason == x509.IncompatibleUsage:
			return WrongUsage
		}
	}
	if leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
		return SelfSigned
	}
	return UnknownAuthority
}

// Evidence is what a handshake proved, for people.
type Evidence struct {
	Version    string    `json:"version"`
	Cipher     string    `json:"cipher"`
	ALPN       string    `json:"alpn,omitempty"`
	ServerName string    `json:"serverName,omitempty"`
	Peer       string    `json:"peer"`
	PeerSerial string    `json:"peerSerial"`
	Issuer     string    `json:"issuer"`
	NotAfter   time.Time `json:"notAfter"`
	Resumed    bool      `json:"resumed"`
}

// Describe reads the evidence from a finished handshake.
func Describe(cs tls.ConnectionState) Evidence {
	e := Evidence{Version: tls.VersionName(cs.Version), Cipher: tls.CipherSuiteName(cs.CipherSuite), ALPN: cs.NegotiatedProtocol, ServerName: cs.ServerName, Resumed: cs.DidResume}
	if len(cs.PeerCertificates) > 0 {
		leaf := cs.PeerCertificates[0]
		e.PeerSerial, e.NotAfter, e.Issuer = leaf.SerialNumber.Text(16), leaf.NotAfter, leaf.Issuer.String()
		e.Peer = PeerID(cs)
	}
	return e
}

// PeerID is the peer's SPIFFE ID; "" if it presented none.
func PeerID(cs tls.ConnectionState) string {
	if len(cs.PeerCertificates) == 0 || len(cs.PeerCertificates[0].URIs) == 0 {
		return ""
	}
	return cs.PeerCertificates[0].URIs[0].String()
}

// Version parses "1.2", "TLSV1_3" and the like; "" is 0.
func Version(s string) (uint16, error) {
	switch strings.TrimPrefix(strings.ReplaceAll(strings.ToUpper(s), "_", "."), "TLSV") {
	case "", "TLS.AUTO":
		return 0, nil
	case "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("TLS version %q is not supported (1.2 and 1.3 are)", s)
}
