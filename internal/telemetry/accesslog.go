package telemetry

import (
	"fmt"
	"strconv"
	"strings"
)

// DefaultFormat is Istio's default text format.
const DefaultFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n"

// Format is a compiled access-log format. Safe for concurrent use.
type Format struct {
	parts []part
	plain bool        // a header's value, not a line of text
	json  []jsonField // instead of parts
}

// ParseFormat compiles an Envoy format string; "" is DefaultFormat. A missing
// newline at its end is added, as Istio does. An operator that is not known is
// an error naming it.
func ParseFormat(format string) (*Format, error) {
	if format == "" {
		format = DefaultFormat
	}
	if !strings.HasSuffix(format, "\n") {
		format += "\n"
	}
	parts, err := split(format)
	if err != nil {
		return nil, err
	}
	return &Format{parts: parts}, nil
}

// ParseValue compiles a header's value. Unlike in a log line nothing is
// escaped, and what is not known is left empty.
func ParseValue(value string) (*Format, error) {
	parts, err := split(value)
	if err != nil {
		return nil, err
	}
	return &Format{parts: parts, plain: true}, nil
}

// part is an operator (at most one function or start is set) with the literal
// text in front of it: one call through a pointer for both.
type part struct {
	literal string
	str     func(*Record) string // "" for nothing
	num     func(*Record) int64
	start   bool // START_TIME
}

// Append formats one record.
func (f *Format) Append(b []byte, r *Record) []byte {
	if f.json != nil {
		return appendJSON(b, f.json, r)
	}
	for i := range f.parts {
		p := &f.parts[i]
		b = append(b, p.literal...)
		switch {
		case p.str == nil:
			b = p.other(b, r)
		case f.plain:
			b = append(b, p.str(r)...)
		default:
			b = text(b, p.str(r))
		}
	}
	return b
}

// other appends an operator that is no string.
func (p *part) other(b []byte, r *Record) []byte {
	switch {
	case p.num != nil:
		return strconv.AppendInt(b, p.num(r), 10)
	case p.start:
		return appendTime(b, r.Start)
	}
	return b
}

// split cuts a format into its parts.
func split(format string) ([]part, error) {
	var out []part
	literal := ""
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			literal += format
			break
		}
		literal += format[:i]
		format = format[i+1:]
		if strings.HasPrefix(format, "%") {
			literal += "%"
			format = format[1:]
			continue
		}
		// An argument in parentheses may hold a "%": START_TIME(%Y-%m-%d).
		end := strings.IndexByte(format, '%')
		if open := strings.IndexByte(format, '('); open >= 0 && open < end {
			shut := strings.IndexByte(format, ')')
			if shut < 0 {
				return nil, fmt.Errorf("access log format: %q has no closing parenthesis", format)
			}
			end = strings.IndexByte(format[shut:], '%')
			if end >= 0 {
				end += shut
			}
		}
		if end < 0 {
			return nil, fmt.Errorf("access log format: %q has no closing %%", "%"+format)
		}
		p, err := operator(format[:end])
		if err != nil {
			return nil, err
		}
		p.literal, literal = literal, ""
		out = append(out, p)
		format = format[end+1:]
	}
	if literal != "" {
		out = append(out, part{literal: literal})
	}
	return out, nil
}

func str(get func(*Record) string) part { return part{str: get} }

func num(get func(*Record) int64) part { return part{num: get} }

// operators without argument.
var operators = map[string]part{
	"PROTOCOL":                               str(func(r *Record) string { return r.Protocol }),
	"RESPONSE_CODE":                          num(func(r *Record) int64 { return int64(r.Status) }),
	"RESPONSE_FLAGS":                         str(func(r *Record) string { return r.Flags.String() }),
	"RESPONSE_CODE_DETAILS":                  str(func(r *Record) string { return r.Details }),
	"CONNECTION_TERMINATION_DETAILS":         str(func(r *Record) string { return r.Termination }),
	"UPSTREAM_TRANSPORT_FAILURE_REASON":      str(func(r *Record) string { return r.Failure }),
	"BYTES_RECEIVED":                         num(func(r *Record) int64 { return r.BytesReceived }),
	"BYTES_SENT":                             num(func(r *Record) int64 { return r.BytesSent }),
	"DURATION":                               num(func(r *Record) int64 { return r.Duration.Milliseconds() }),
	"UPSTREAM_HOST":                          str(func(r *Record) string { return r.UpstreamHost }),
	"UPSTREAM_CLUSTER":                       str(func(r *Record) string { return r.Cluster }),
	"UPSTREAM_CLUSTER_RAW":                   str(func(r *Record) string { return r.Cluster }),
	"UPSTREAM_LOCAL_ADDRESS":                 str(func(r *Record) string { return r.UpstreamLocal }),
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":         num(func(r *Record) int64 { return int64(r.Attempts) }),
	"DOWNSTREAM_LOCAL_ADDRESS":               str(func(r *Record) string { return r.DownstreamLocal }),
	"DOWNSTREAM_REMOTE_ADDRESS":              str(func(r *Record) string { return r.DownstreamRemote }),
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": str(func(r *Record) string { return bareAddress(r.DownstreamRemote) }),
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":  str(func(r *Record) string { return bareAddress(r.DownstreamLocal) }),
	"DOWNSTREAM_PEER_URI_SAN":                str(func(r *Record) string { return r.PeerPrincipal }),
	"DOWNSTREAM_LOCAL_URI_SAN":               str(func(r *Record) string { return r.LocalPrincipal }),
	"DOWNSTREAM_TLS_VERSION":                 str(func(r *Record) string { return r.TLSVersion }),
	"DOWNSTREAM_TLS_CIPHER":                  str(func(r *Record) string { return r.TLSCipher }),
	"REQUESTED_SERVER_NAME":                  str(func(r *Record) string { return r.SNI }),
	"ROUTE_NAME":                             str(func(r *Record) string { return r.Route }),
	"GRPC_STATUS_NUMBER":                     str(func(r *Record) string { return r.GRPCStatus }),
	"STREAM_ID":                              str(func(r *Record) string { return r.RequestID }),
	"TULLE_VERSION":                          str(func(r *Record) string { return r.Version }),
	"START_TIME":                             {start: true},
}

func bareAddress(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		s = s[:i]
	}
	return strings.Trim(s, "[]")
}

// operator compiles NAME, NAME(ARG) or NAME(ARG):MAX.
func operator(op string) (part, error) {
	if a, ok := operators[op]; ok {
		return a, nil
	}
	name, rest, ok := strings.Cut(op, "(")
	if !ok {
		return part{}, fmt.Errorf("access log format: operator %%%s%% is not supported", op)
	}
	arg, tail, _ := strings.Cut(rest, ")")
	limit := -1
	if tail != "" {
		n, err := strconv.Atoi(strings.TrimPrefix(tail, ":"))
		if err != nil || n < 0 {
			return part{}, fmt.Errorf("access log format: %%%s%%: %q is not a length", op, tail)
		}
		limit = n
	}
	get, err := lookup(name, arg)
	if err != nil {
		return part{}, fmt.Errorf("access log format: %%%s%%: %w", op, err)
	}
	return str(func(r *Record) string {
		s := get(r)
		if limit >= 0 && len(s) > limit {
			s = s[:limit]
		}
		return s
	}), nil
}

func lookup(name, arg string) (func(*Record) string, error) {
	first, second, _ := strings.Cut(strings.ToLower(arg), "?")
	switch name {
	case "REQ":
		return func(r *Record) string {
			if v := requestField(r, first); v != "" || second == "" {
				return v
			}
			return requestField(r, second)
		}, nil
	case "RESP":
		return func(r *Record) string {
			if v := responseField(r, first); v != "" || second == "" {
				return v
			}
			return responseField(r, second)
		}, nil
	case "DYNAMIC_METADATA":
		if get := metadata(arg); get != nil {
			return get, nil
		}
		return nil, fmt.Errorf("metadata %q is not supported", arg)
	}
	return nil, fmt.Errorf("operator %s(…) is not supported", name)
}

func requestField(r *Record, name string) string {
	switch name {
	case ":method":
		return r.Method
	case ":path":
		return r.Path
	case ":authority":
		return r.Authority
	}
	if r.Request == nil {
		return ""
	}
	v, _ := r.Request.Get(name)
	return v
}

func responseField(r *Record, name string) string {
	if name == "x-envoy-upstream-service-time" && r.HasUpstreamTime {
		return strconv.FormatInt(r.UpstreamTime.Milliseconds(), 10) // small integers do not allocate
	}
	if r.Response == nil {
		return ""
	}
	v, _ := r.Response.Get(name)
	return v
}
