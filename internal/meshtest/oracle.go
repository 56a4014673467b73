package meshtest

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
)

// A table of the oracle is a text file of blocks. A block begins with
// "-- TITLE", then has policies in YAML (parted by "---") and cases:
//
//	DECISION CALLER METHOD [:PORT]/PATH [host=NAME] [token=CLAIMS] [HEADER=VALUE …]
//	DECISION CALLER TCP
//
// DECISION is allow or deny, with ",by=POLICY[RULE]" (none: no ALLOW policy
// matched), ",dry=allow|deny" (what it would be were dry-run policies live) and
// ",audit=POLICY[RULE]" behind it. A policy is the spec of one called p1, p2, …
// in namespace shop, or an object that begins with "metadata:". @NAME is the
// address of a caller or of target. CLAIMS is the JSON, without blanks, of what
// a token says (unless it does, iss is https://a.example.com); in a table with
// tokens, target verifies those of that issuer and of "b". "error TEXT" and "warning TEXT" say what
// the user is told; nothing else may be. A # after two blanks begins a comment.
type block struct {
	title    string
	place    string // file:line
	policies []string
	cases    []oracleCase
	errors   []string
	warnings []string
}

type oracleCase struct {
	place   string
	text    string
	allow   bool
	options map[string]string
	caller  string
	tcp     bool
	port    string // of the service; "" for 80
	token   string // claims, as JSON
	req     request
}

var caseLine = regexp.MustCompile(`^(allow|deny|error|warning)\b(\S*) (.*)$`)

// readOracle reads a table.
func readOracle(path string) ([]block, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []block
	var yaml strings.Builder
	flush := func() {
		if len(out) == 0 {
			return
		}
		b := &out[len(out)-1]
		for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(yaml.String(), -1) {
			if strings.TrimSpace(doc) != "" {
				b.policies = append(b.policies, doc)
			}
		}
		yaml.Reset()
	}
	for i, line := range strings.Split(string(text), "\n") {
		place := fmt.Sprintf("%s:%d", path, i+1)
		if title, ok := strings.CutPrefix(line, "-- "); ok {
			flush()
			out = append(out, block{title: title, place: place})
			continue
		}
		if strings.HasPrefix(line, "#") || len(out) == 0 {
			continue
		}
		m := caseLine.FindStringSubmatch(line)
		if m == nil {
			yaml.WriteString(line + "\n")
			continue
		}
		b := &out[len(out)-1]
		rest, _, _ := strings.Cut(m[3], "  #")
		rest = strings.TrimSpace(rest)
		switch m[1] {
		case "error":
			b.errors = append(b.errors, rest)
		case "warning":
			b.warnings = append(b.warnings, rest)
		default:
			c, err := readCase(m[1] == "allow", m[2], rest)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", place, err)
			}
			c.place, c.text = place, line
			b.cases = append(b.cases, c)
		}
	}
	flush()
	return out, nil
}

func readCase(allow bool, options, text string) (c oracleCase, err error) {
	c = oracleCase{allow: allow, options: map[string]string{}, req: request{header: http.Header{}}}
	for _, o := range strings.Split(options, ",")[1:] {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k != "by" && k != "dry" && k != "audit" {
			return c, fmt.Errorf("%q is not a part of a decision", o)
		}
		c.options[k] = v
	}
	words := strings.Fields(text)
	if len(words) < 2 {
		return c, fmt.Errorf("want \"CALLER METHOD PATH\" or \"CALLER TCP\"")
	}
	c.caller = words[0]
	if words[1] == "TCP" {
		c.tcp, c.port = true, "5432"
		return c, nil
	}
	if len(words) < 3 {
		return c, fmt.Errorf("a request needs a path")
	}
	c.req.method = words[1]
	slash := strings.IndexByte(words[2], '/')
	if slash < 0 || slash > 0 && words[2][0] != ':' {
		return c, fmt.Errorf("%q: want [:PORT]/PATH", words[2])
	}
	authority := targetHost
	if slash > 0 {
		c.port = words[2][1:slash]
		authority += words[2][:slash]
	}
	c.req.url = "http://" + authority + words[2][slash:]
	for _, w := range words[3:] {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return c, fmt.Errorf("%q: want HEADER=VALUE", w)
		}
		if k == "token" {
			c.token = v
			continue
		}
		if k == "host" {
			c.req.header["Host"] = []string{v}
			continue
		}
		c.req.header.Add(k, v)
	}
	return c, nil
}

const targetHost = "target.shop.svc.cluster.local"
