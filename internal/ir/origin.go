package ir

import (
	"strconv"
	"strings"
)

// Origin says which object of the user's configuration caused something, and
// where it was written. The zero Origin means "Tulle's own default".
type Origin struct {
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"` // 1-based; 0 when unknown (an object from a cluster)
}

// IsZero reports whether o names nothing.
func (o Origin) IsZero() bool { return o == Origin{} }

// String is the form users read: "VirtualService researchflow/worker (virtual-services.yaml:12)".
func (o Origin) String() string {
	if o.IsZero() {
		return "default"
	}
	var b strings.Builder
	b.WriteString(o.Kind)
	b.WriteByte(' ')
	if o.Namespace != "" {
		b.WriteString(o.Namespace)
		b.WriteByte('/')
	}
	b.WriteString(o.Name)
	if p := o.Place(); p != "" {
		b.WriteString(" (")
		b.WriteString(p)
		b.WriteByte(')')
	}
	return b.String()
}

// Place is "file:line", "file" or "".
func (o Origin) Place() string {
	if o.File == "" || o.Line == 0 {
		return o.File
	}
	return o.File + ":" + strconv.Itoa(o.Line)
}
