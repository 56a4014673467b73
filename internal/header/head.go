package header

import "strconv"

// Framing says how a body ends.
type Framing uint8

const (
	NoBody     Framing = iota
	Length             // Head.Length bytes
	Open               // unknown beforehand: chunks in HTTP/1.1, END_STREAM in HTTP/2
	UntilClose         // HTTP/1 responses only: the connection's end is the body's end
)

// Head is a request or response head, whatever protocol carried it. Hop-by-hop
// fields and framing are taken out of Fields and into the typed members; a
// codec that writes the head puts back its own. Strings alias the codec's
// buffers and live as long as the exchange they belong to.
type Head struct {
	// Requests.
	Method, Target string
	Host           string // authority: from an absolute-form target, else the Host field
	Scheme         string // HTTP/2's :scheme; in HTTP/1.1 only from an absolute-form target
	Path           string // origin-form target, with query; "*" for OPTIONS *
	// Responses.
	Status int
	Reason string // HTTP/1.1 only; "" is the usual text

	HTTP10    bool
	Fields    Map
	Framing   Framing
	Length    int64
	HasLength bool   // a length was given, whether or not a body follows
	KeepAlive bool   // the peer lets the connection live after this message
	Upgrade   string // requested or accepted protocol: Upgrade in HTTP/1.1, :protocol in HTTP/2 (RFC 8441)
	Expect100 bool
	Trailers  bool // the peer said "TE: trailers"

	Connection string // the Connection field's value(s): what the HTTP/1.1 codec has still to take out
}

// Get returns the value of a field (lower case) as conditions see it: that the
// codec has taken out upgrade and content-length hides them from no policy.
func (h *Head) Get(name string) (string, bool) {
	switch name {
	case "upgrade":
		return h.Upgrade, h.Upgrade != ""
	case "content-length":
		if !h.HasLength {
			return "", false
		}
		return strconv.FormatInt(h.Length, 10), true
	}
	return h.Fields.Get(name)
}

// Reset empties the head and keeps the memory of its fields.
func (h *Head) Reset() {
	fields := h.Fields
	fields.Reset()
	*h = Head{Fields: fields}
}
