package resource

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"
)

// checkMessage compares a YAML node with a protobuf message's schema and
// reports every field that is unknown or of the wrong type with its path.
// protojson would stop at the first, and name a column of text nobody wrote.
func (o *object) checkMessage(n *yaml.Node, md protoreflect.MessageDescriptor, path string) {
	if n.Tag == "!!null" {
		return
	}
	switch md.FullName() {
	case "google.protobuf.Duration":
		o.checkDuration(n, path)
		return
	case "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Any", "google.protobuf.Timestamp":
		return
	case "google.protobuf.BoolValue", "google.protobuf.UInt32Value", "google.protobuf.Int32Value", "google.protobuf.Int64Value",
		"google.protobuf.UInt64Value", "google.protobuf.DoubleValue", "google.protobuf.FloatValue", "google.protobuf.StringValue":
		o.checkScalar(n, md.Fields().ByName("value"), path)
		return
	}
	if n.Kind != yaml.MappingNode {
		o.fail(path, "want an object, have "+describe(n))
		return
	}
	oneofs := map[protoreflect.FullName]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		sub := join(path, key)
		fd := fieldNamed(md, key)
		if fd == nil {
			o.fail(sub, "unknown field", didYouMean(key, fieldNames(md)))
			continue
		}
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other, ok := oneofs[one.FullName()]; ok {
				o.fail(sub, "only one of "+other+" and "+key+" may be set")
			}
			oneofs[one.FullName()] = key
		}
		o.checkField(value, fd, sub)
	}
}

// fieldNamed takes both names that protobuf's JSON takes; nil: there is none.
func fieldNamed(md protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByJSONName(key); fd != nil {
		return fd
	}
	return md.Fields().ByTextName(key)
}

func (o *object) checkField(n *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	switch {
	case n.Tag == "!!null":
	case fd.IsMap():
		if n.Kind != yaml.MappingNode {
			o.fail(path, "want an object, have "+describe(n))
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			o.checkValue(n.Content[i+1], fd.MapValue(), join(path, n.Content[i].Value))
		}
	case fd.IsList():
		if n.Kind != yaml.SequenceNode {
			o.fail(path, "want a list, have "+describe(n))
			return
		}
		for i, c := range n.Content {
			o.checkValue(c, fd, fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		o.checkValue(n, fd, path)
	}
}

func (o *object) checkValue(n *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	if fd.Message() != nil {
		o.checkMessage(n, fd.Message(), path)
		return
	}
	o.checkScalar(n, fd, path)
}

func (o *object) checkScalar(n *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	if n.Kind != yaml.ScalarNode {
		o.fail(path, "want a "+fd.Kind().String()+", have "+describe(n))
		return
	}
	want := ""
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind:
		if n.Tag != "!!str" {
			o.fail(path, "want a string, have "+describe(n), fmt.Sprintf("put it in quotes: %q", n.Value))
		}
		return
	case protoreflect.BoolKind:
		want = "!!bool"
	case protoreflect.EnumKind:
		if !enumValue(fd.Enum().Values(), n) {
			var names []string
			for i := range fd.Enum().Values().Len() {
				names = append(names, string(fd.Enum().Values().Get(i).Name()))
			}
			hint := "" // the names are said already
			if nearest(n.Value, names) != "" {
				hint = didYouMean(n.Value, names)
			}
			o.fail(path, fmt.Sprintf("%q is not one of %s", n.Value, strings.Join(names, ", ")), hint)
		}
		return
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if n.Tag != "!!float" && n.Tag != "!!int" {
			o.fail(path, "want a number, have "+describe(n))
		}
		return
	default:
		want = "!!int"
	}
	if n.Tag != want {
		o.fail(path, "want a "+map[string]string{"!!bool": "boolean", "!!int": "whole number"}[want]+", have "+describe(n))
		return
	}
	if strings.HasPrefix(n.Value, "-") && (fd.Kind() == protoreflect.Uint32Kind || fd.Kind() == protoreflect.Uint64Kind) {
		o.fail(path, "may not be negative")
	}
}

// enumValue: by name or, as protobuf's JSON allows, by number.
func enumValue(values protoreflect.EnumValueDescriptors, n *yaml.Node) bool {
	if number, err := strconv.ParseInt(n.Value, 10, 32); err == nil && n.Tag == "!!int" {
		return values.ByNumber(protoreflect.EnumNumber(number)) != nil
	}
	return values.ByName(protoreflect.Name(n.Value)) != nil
}

func (o *object) checkDuration(n *yaml.Node, path string) {
	d, err := time.ParseDuration(n.Value)
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		o.fail(path, "want a duration, have "+describe(n), `write it with its unit: "30s"`)
	case err != nil:
		o.fail(path, fmt.Sprintf("%q is not a duration", n.Value), `examples: "30s", "1.5s", "250ms" is "0.250s" to Istio and read here too`)
	case d < 0:
		o.fail(path, "a duration may not be negative")
	default:
		n.Value = fmt.Sprintf("%.9fs", d.Seconds()) // protobuf's JSON form knows seconds only
	}
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!bool":
		return "the boolean " + n.Value
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}

func fieldNames(md protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range md.Fields().Len() {
		names = append(names, md.Fields().Get(i).JSONName())
	}
	return names
}

// didYouMean suggests the nearest name, or lists them when none is near.
func didYouMean(got string, names []string) string {
	if n := nearest(got, names); n != "" {
		return "did you mean " + n + "?"
	}
	return "known: " + strings.Join(names, ", ")
}

// nearest is the name that got is a slip of: at most three letters, and no more
// than half of them, are others; "" for none.
func nearest(got string, names []string) string {
	best, at := min(3, (len(got)+1)/2)+1, ""
	for _, n := range names {
		if d := distance(strings.ToLower(got), strings.ToLower(n)); d < best {
			best, at = d, n
		}
	}
	return at
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost = 1 + min(diagonal, row[j], row[j-1])
			}
			diagonal, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}
