package extauthz

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// verdict reads the answer. One that could split our messages is no decision
// (Envoy rejects it likewise).
func verdict(r *auth.CheckResponse) authz.Verdict {
	v := authz.Verdict{Allow: r.GetStatus().GetCode() == int32(codes.OK)}
	if m := r.GetDynamicMetadata(); m != nil {
		v.Metadata = m.AsMap()
	}
	var err error
	switch ok, denied := r.GetOkResponse(), r.GetDeniedResponse(); {
	case r.GetErrorResponse() != nil: // the authorizer itself has failed; failOpen applies
		e := r.GetErrorResponse()
		v = authz.Verdict{Status: int(e.GetStatus().GetCode()), Body: e.Body, Err: errors.New("the authorizer reports a failure of its own")}
		v.Headers, _, err = requestHeaders(e.Headers)
	case v.Allow && ok != nil:
		err = allowed(&v, ok)
	case !v.Allow && denied != nil:
		v.Status, v.Body = int(denied.GetStatus().GetCode()), denied.Body
		var more []ir.Header
		v.Headers, more, err = requestHeaders(denied.Headers)
		v.Headers = append(v.Headers, more...)
	}
	if err == nil && v.Status != 0 && (v.Status < 200 || v.Status > 599) {
		err = fmt.Errorf("status %d", v.Status)
	}
	if err != nil {
		return authz.Verdict{Err: fmt.Errorf("the answer cannot be used: %w", err), Status: http.StatusInternalServerError}
	}
	v.Detail, _ = v.Metadata["decision_id"].(string)
	return v
}

// allowed reads what an allowing authorizer changes.
func allowed(v *authz.Verdict, ok *auth.OkHttpResponse) (err error) {
	if v.Headers, v.AppendHeaders, err = requestHeaders(ok.Headers); err != nil {
		return err
	}
	for _, o := range ok.ResponseHeadersToAdd {
		h, err := field(o)
		if err != nil {
			return err
		}
		v.ResponseHeaders = append(v.ResponseHeaders, authz.ResponseHeader{Header: h, Append: appendAction(o)})
	}
	for _, name := range ok.HeadersToRemove {
		if name = strings.ToLower(name); name == "host" || !token(name) {
			return fmt.Errorf("header %q is not to be removed", name)
		}
		v.RemoveHeaders = append(v.RemoveHeaders, name)
	}
	for _, q := range ok.QueryParametersToSet {
		if !encoded(q.Key) || !encoded(q.Value) {
			return fmt.Errorf("query parameter %q is not percent-encoded", q.Key)
		}
		v.SetQuery = append(v.SetQuery, ir.Header{Name: q.Key, Value: q.Value})
	}
	for _, name := range ok.QueryParametersToRemove {
		if !encoded(name) {
			return fmt.Errorf("query parameter %q is not percent-encoded", name)
		}
		v.RemoveQuery = append(v.RemoveQuery, name)
	}
	//lint:ignore SA1019 deprecated, and goes before the outer one where it is used
	if m := ok.GetDynamicMetadata(); m != nil {
		v.Metadata = m.AsMap()
	}
	return nil
}

// requestHeaders reads headers for the request. Only the old field append asks
// for appending here; appendAction is not looked at (Envoy).
func requestHeaders(list []*core.HeaderValueOption) (set, add []ir.Header, err error) {
	for _, o := range list {
		h, err := field(o)
		if err != nil {
			return nil, nil, err
		}
		//lint:ignore SA1019 the only field that counts
		if o.GetAppend().GetValue() {
			add = append(add, h)
		} else {
			set = append(set, h)
		}
	}
	return set, add, nil
}

func appendAction(o *core.HeaderValueOption) authz.Append {
	//lint:ignore SA1019 the old field goes before the new one where it is used
	if a := o.GetAppend(); a != nil {
		if a.Value {
			return authz.Add
		}
		return authz.Set
	}
	switch o.GetAppendAction() {
	case core.HeaderValueOption_ADD_IF_ABSENT:
		return authz.AddIfAbsent
	case core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		return authz.Set
	case core.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return authz.SetIfPresent
	}
	return authz.Add
}

// field reads one header. Pseudo headers and those that frame messages are not
// an authorizer's to set: what was authorized would not be what is sent.
func field(o *core.HeaderValueOption) (ir.Header, error) {
	value := o.GetHeader().GetValue()
	if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
		value = string(raw)
	}
	name := strings.ToLower(o.GetHeader().GetKey())
	if !token(name) || authz.Framing(name) {
		return ir.Header{}, fmt.Errorf("header %q is not an authorizer's to set", name)
	}
	if !authz.CleanValue(value) {
		return ir.Header{}, fmt.Errorf("the value of header %s has control characters", name)
	}
	return ir.Header{Name: name, Value: value}, nil
}

// token: the name is one of RFC 9110 section 5.1.
func token(name string) bool {
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return name != ""
}

// encoded: nothing in s would end a parameter or the path.
func encoded(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("&#?\"<>", c) >= 0 {
			return false
		}
	}
	return true
}
