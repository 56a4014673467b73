package jwks

import "time"

// Source is where a rule's keys are published: a URL, or, where it is empty,
// what the issuer's OpenID Provider Configuration names. It is a key of maps.
type Source struct {
	URL, Issuer string
	Timeout     time.Duration // of one fetch; 0: 5s, Istio's default
}

// Set is what is known of a source: the newest document that could be read,
// empty before the first, and why the last fetch failed, empty if it did not.
type Set struct{ Document, Error string }

// String is the URL that is fetched first.
func (s Source) String() string {
	if s.URL != "" {
		return s.URL
	}
	return discoveryOf(s.Issuer)
}
