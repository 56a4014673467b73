// Package header holds HTTP header fields as the data path carries them: a
// short list searched front to back, names in lower case as HTTP/2 requires
// and Envoy prints. No map, because a request has a dozen fields and the
// list is reused from request to request without allocating.
package header

import "strings"

// Field is one header line. Both strings may alias a connection's read buffer
// and are then valid until the request they came with is finished.
type Field struct{ Name, Value string }

// Map is an ordered list of fields. The zero Map is empty. Not safe for
// concurrent use.
type Map struct{ Fields []Field }

// Reset empties the map and keeps its memory.
func (m *Map) Reset() { m.Fields = m.Fields[:0] }

// Get returns the value of name (lower case). Several fields of one name are
// joined with "," as RFC 9110 section 5.3 allows; only that case allocates.
func (m *Map) Get(name string) (string, bool) {
	for i := range m.Fields {
		if m.Fields[i].Name == name {
			return m.join(i), true
		}
	}
	return "", false
}

// join collects the fields that repeat the one at i.
func (m *Map) join(i int) string {
	name, value := m.Fields[i].Name, m.Fields[i].Value
	for _, f := range m.Fields[i+1:] {
		if f.Name == name {
			value += "," + f.Value
		}
	}
	return value
}

// First returns the first value of name, or "".
func (m *Map) First(name string) string {
	for i := range m.Fields {
		if m.Fields[i].Name == name {
			return m.Fields[i].Value
		}
	}
	return ""
}

// Has reports whether a field of that name is present.
func (m *Map) Has(name string) bool {
	for i := range m.Fields {
		if m.Fields[i].Name == name {
			return true
		}
	}
	return false
}

// Add appends a field.
func (m *Map) Add(name, value string) { m.Fields = append(m.Fields, Field{name, value}) }

// Set replaces every field of that name by one.
func (m *Map) Set(name, value string) {
	for i := range m.Fields {
		if m.Fields[i].Name == name {
			m.Fields[i].Value = value
			m.del(name, i+1)
			return
		}
	}
	m.Add(name, value)
}

// Del removes every field of that name.
func (m *Map) Del(name string) { m.del(name, 0) }

func (m *Map) del(name string, from int) {
	out := from
	for i := from; i < len(m.Fields); i++ {
		if m.Fields[i].Name != name {
			m.Fields[out] = m.Fields[i]
			out++
		}
	}
	m.Fields = m.Fields[:out]
}

// DelPrefix removes every field whose name starts with prefix.
func (m *Map) DelPrefix(prefix string) {
	out := 0
	for i := range m.Fields {
		if !strings.HasPrefix(m.Fields[i].Name, prefix) {
			m.Fields[out] = m.Fields[i]
			out++
		}
	}
	m.Fields = m.Fields[:out]
}

// CopyFrom makes m equal to src, sharing the strings.
func (m *Map) CopyFrom(src *Map) { m.Fields = append(m.Fields[:0], src.Fields...) }
