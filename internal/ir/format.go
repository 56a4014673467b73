package ir

import (
	"fmt"
	"strings"
)

// CheckFormat reports what is wrong with a header value that may hold Envoy's
// operators: a single "%", or an operator that the proxy does not know.
func CheckFormat(value string) error {
	for rest := value; ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return nil
		}
		rest = rest[i+1:]
		end := strings.IndexByte(rest, '%')
		if end < 0 {
			return fmt.Errorf("%q has a single %%", value)
		}
		if op := rest[:end]; op != "" && !knownOperator(op) {
			return fmt.Errorf("the operator %%%s%% is not supported", op)
		}
		rest = rest[end+1:]
	}
}

// knownOperator: what telemetry's formats know of a request before its
// response. RESP is for response headers.
func knownOperator(op string) bool {
	name, arg, ok := strings.Cut(op, "(")
	if ok {
		return (name == "REQ" || name == "RESP") && strings.HasSuffix(arg, ")") && len(arg) > 1
	}
	switch op {
	case "PROTOCOL", "RESPONSE_CODE", "RESPONSE_FLAGS", "RESPONSE_CODE_DETAILS", "UPSTREAM_HOST", "UPSTREAM_CLUSTER", "UPSTREAM_LOCAL_ADDRESS",
		"DOWNSTREAM_LOCAL_ADDRESS", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
		"DOWNSTREAM_PEER_URI_SAN", "DOWNSTREAM_LOCAL_URI_SAN", "DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_TLS_CIPHER", "REQUESTED_SERVER_NAME",
		"ROUTE_NAME", "STREAM_ID", "START_TIME":
		return true
	}
	return false
}
