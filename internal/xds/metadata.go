package xds

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// extension is the metadata key of what Envoy has no words for.
const extension = "tulle"

// carry puts an ir object into metadata, beside Istio's note of the object
// that caused it.
func carry(v any, o ir.Origin) (*core.Metadata, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	m := &core.Metadata{FilterMetadata: map[string]*structpb.Struct{
		extension: {Fields: map[string]*structpb.Value{"ir": structpb.NewStringValue(string(b))}},
	}}
	if o.Name != "" {
		path := "/" + o.Kind + "/" + o.Namespace + "/" + o.Name
		m.FilterMetadata["istio"] = &structpb.Struct{Fields: map[string]*structpb.Value{"config": structpb.NewStringValue(path)}}
	}
	return m, nil
}

var errForeign = errors.New("the resource does not come from a Tulle control plane; others are not supported yet")

// carried takes an ir object out of metadata again.
func carried(m *core.Metadata, into any) error {
	text := m.GetFilterMetadata()[extension].GetFields()["ir"].GetStringValue()
	if text == "" {
		return errForeign
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("metadata %q: %w", extension, err)
	}
	return nil
}

func pack(m proto.Message) *anypb.Any {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("xds: marshal %T: %v", m, err)) // plain generated messages: cannot fail
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}

func duration(d ir.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(time.Duration(d))
}

func u32(v uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(v) }

func optional(v uint32) *wrapperspb.UInt32Value {
	if v == 0 {
		return nil
	}
	return u32(v)
}

func address(host string, port uint16) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: host, PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

func stringMatcher(m ir.Match) *matcher.StringMatcher {
	out := &matcher.StringMatcher{IgnoreCase: m.IgnoreCase}
	switch m.Kind {
	case ir.Exact:
		out.MatchPattern = &matcher.StringMatcher_Exact{Exact: m.Value}
	case ir.Prefix:
		out.MatchPattern = &matcher.StringMatcher_Prefix{Prefix: m.Value}
	case ir.Suffix:
		out.MatchPattern = &matcher.StringMatcher_Suffix{Suffix: m.Value}
	case ir.Contains:
		out.MatchPattern = &matcher.StringMatcher_Contains{Contains: m.Value}
	case ir.Present:
		out.MatchPattern = &matcher.StringMatcher_SafeRegex{SafeRegex: regex(".+")}
	default:
		out.MatchPattern = &matcher.StringMatcher_SafeRegex{SafeRegex: regex(m.Value)}
	}
	return out
}

func regex(expr string) *matcher.RegexMatcher { return &matcher.RegexMatcher{Regex: expr} }

// adsSource: the referenced resource comes over the same stream.
func adsSource() *core.ConfigSource {
	return &core.ConfigSource{ResourceApiVersion: core.ApiVersion_V3, ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}}
}
