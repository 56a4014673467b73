package jwks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// defaultTimeout of one fetch, discovery included (Istio's).
const defaultTimeout = 5 * time.Second

// discovery is where an issuer describes itself (OpenID Connect Discovery 1.0
// section 4).
const discovery = "/.well-known/openid-configuration"

// fetch gets a source's document and makes sure that it can be used.
func fetch(ctx context.Context, c *http.Client, s Source) (string, error) {
	timeout := s.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	at := s.URL
	if at == "" {
		var err error
		if at, err = discover(ctx, c, s.Issuer); err != nil {
			return "", err
		}
	}
	b, err := get(ctx, c, at)
	if err != nil {
		return "", err
	}
	if _, err := Parse(b); err != nil {
		return "", fmt.Errorf("%s: %w", at, err)
	}
	return string(b), nil
}

func discoveryOf(issuer string) string { return strings.TrimSuffix(issuer, "/") + discovery }

// discover finds the URL of an issuer's keys.
func discover(ctx context.Context, c *http.Client, issuer string) (string, error) {
	from := discoveryOf(issuer)
	b, err := get(ctx, c, from)
	if err != nil {
		return "", err
	}
	var described struct {
		Keys string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(b, &described); err != nil {
		return "", fmt.Errorf("%s: not JSON: %w", from, err)
	}
	to, err := url.Parse(described.Keys)
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" {
		return "", fmt.Errorf("%s: its jwks_uri %q is not a URL of http or https", from, described.Keys)
	}
	if to.Scheme == "http" && strings.HasPrefix(from, "https:") {
		return "", fmt.Errorf("%s: its jwks_uri %s has no TLS", from, described.Keys)
	}
	return described.Keys, nil
}

// get reads one document, MaxDocument bytes at most.
func get(ctx context.Context, c *http.Client, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return nil, err // names method and URL
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", from, res.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("%s: more than %d bytes", from, MaxDocument)
	}
	return b, nil
}

// noDowngrade follows up to ten redirects, but not out of TLS.
func noDowngrade(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than ten redirects")
	}
	if req.URL.Scheme == "http" && via[0].URL.Scheme == "https" {
		return errors.New("redirected from https to http")
	}
	return nil
}
