package telemetry

import (
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// ParseJSON compiles a JSON format: one object per line, keys sorted. As in
// Envoy, a field that is one operator keeps its type (numbers stay numbers,
// nothing is null); any other field is a string.
func ParseJSON(fields map[string]string) (*Format, error) {
	f := &Format{json: []jsonField{}}
	for i, k := range slices.Sorted(maps.Keys(fields)) {
		parts, err := split(fields[k])
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", k, err)
		}
		open := "{"
		if i > 0 {
			open = ","
		}
		f.json = append(f.json, jsonField{string(append(appendJSONString([]byte(open), k), ':')), parts})
	}
	return f, nil
}

// jsonField is one field of a JSON line: its name with what stands around it,
// and its value.
type jsonField struct {
	head  string
	parts []part
}

func appendJSON(b []byte, fields []jsonField, r *Record) []byte {
	if len(fields) == 0 {
		return append(b, "{}\n"...)
	}
	for i := range fields {
		b = appendJSONValue(append(b, fields[i].head...), fields[i].parts, r)
	}
	return append(b, "}\n"...)
}

// DefaultJSON is Istio's default set of JSON fields.
func DefaultJSON() map[string]string {
	return map[string]string{
		"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
		"protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
		"response_code_details": "%RESPONSE_CODE_DETAILS%", "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
		"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "bytes_received": "%BYTES_RECEIVED%",
		"bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%", "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
		"x_forwarded_for": "%REQ(X-FORWARDED-FOR)%", "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%",
		"authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER%",
		"upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
		"downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
		"route_name": "%ROUTE_NAME%",
	}
}

func appendJSONValue(b []byte, parts []part, r *Record) []byte {
	if len(parts) == 1 && parts[0].literal == "" {
		switch p := &parts[0]; {
		case p.num != nil:
			return p.other(b, r)
		case p.str != nil && p.str(r) == "":
			return append(b, "null"...)
		}
	}
	b = append(b, '"')
	for i := range parts {
		p := &parts[i]
		b = appendJSONText(b, p.literal)
		if p.str == nil {
			b = p.other(b, r)
			continue
		}
		s := p.str(r)
		if s == "" {
			s = "-"
		}
		b = appendJSONText(b, s)
	}
	return append(b, '"')
}

func appendJSONString(b []byte, s string) []byte {
	return append(appendJSONText(append(b, '"'), s), '"')
}

// appendJSONText escapes s for the inside of a JSON string. Bytes that are no
// UTF-8, which peers may send, become U+FFFD.
func appendJSONText(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < 0x20 || c == 0x7f:
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
		i += n
	}
	return b
}
