package ir

import (
	"encoding/json"
	"fmt"
	"time"
)

// MatchKind is how a string is compared.
type MatchKind string

const (
	Exact    MatchKind = "exact"
	Prefix   MatchKind = "prefix" // of the string, not of path segments: /foo matches /foobar
	Suffix   MatchKind = "suffix"
	Contains MatchKind = "contains"
	Regex    MatchKind = "regex"    // RE2, the full string
	Present  MatchKind = "present"  // any value, even empty
	Template MatchKind = "template" // path template: {*} one segment, {**} the rest
)

// Match compares one string.
type Match struct {
	Kind       MatchKind `json:"kind"`
	Value      string    `json:"value,omitempty"`
	IgnoreCase bool      `json:"ignoreCase,omitempty"` // exact, prefix, suffix, contains
}

// Duration prints as Go writes durations ("1m30s") in JSON and YAML.
type Duration time.Duration

// D converts to the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: %w", s, err)
	}
	*d = Duration(v)
	return nil
}
