package ir

import "testing"

func TestCheckFormat(t *testing.T) {
	for value, want := range map[string]string{
		"":                                "",
		"plain":                           "",
		"100%%":                           "",
		"%REQ(x-id)%":                     "",
		"a %DOWNSTREAM_REMOTE_ADDRESS% b": "",
		"%REQ(:path)%%%%REQ(x)%":          "",
		"50%":                             `"50%" has a single %`,
		"%HOSTNAME%":                      "the operator %HOSTNAME% is not supported",
		"%REQ()%":                         "the operator %REQ()% is not supported",
		"%DYNAMIC_METADATA(a:b)%":         "the operator %DYNAMIC_METADATA(a:b)% is not supported",
		"%%%PROTOCOL%%":                   `"%%%PROTOCOL%%" has a single %`,
	} {
		got := ""
		if err := CheckFormat(value); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

func TestShareString(t *testing.T) {
	for s, want := range map[Share]string{All: "100%", 1: "0.0001%", 125_000: "12.5%", 0: "0%"} {
		if s.String() != want {
			t.Errorf("%d: %s, want %s", s, s, want)
		}
	}
}
