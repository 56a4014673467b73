package nameserver

import (
	"errors"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	answerTTL  = 30 // seconds, as Istio's
	minUDP     = 512
	maxUDP     = 4096 // whatever a resolver says it takes
	maxMessage = 65535
)

// query is what we need of a DNS message: one question, and how long an answer
// over UDP may be.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	name     string // lower case, no dot at its end
	size     int
	edns     bool
}

var errNoQuery = errors.New("not a DNS query with one question")

// parse reads a query. Everything in it is a peer's: names are bounded by
// dnsmessage (255 bytes), counts by the message itself.
func parse(msg []byte) (*query, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return nil, errNoQuery
	}
	q := &query{header: h, size: minUDP}
	if q.question, err = p.Question(); err != nil {
		return nil, errNoQuery
	}
	if _, err = p.Question(); err != dnsmessage.ErrSectionDone {
		return nil, errNoQuery
	}
	q.name = strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, nil
	}
	for {
		rh, err := p.AdditionalHeader()
		if err != nil {
			return q, nil
		}
		if rh.Type == dnsmessage.TypeOPT {
			q.edns = true
			q.size = min(max(int(rh.Class), minUDP), maxUDP) // RFC 6891 section 6.1.2
		}
		if p.SkipAdditional() != nil {
			return q, nil
		}
	}
}

// answer is the response for a name of the table; nil: it is not ours to
// answer. limit bounds it: a longer one is truncated, so that the resolver asks
// again over TCP.
func (t *table) answer(q *query, limit int) []byte {
	if q.header.OpCode != 0 || q.question.Class != dnsmessage.ClassINET || q.question.Type != dnsmessage.TypeA && q.question.Type != dnsmessage.TypeAAAA {
		return nil
	}
	addrs, canonical, ok := t.lookup(q.name)
	if !ok {
		return nil
	}
	b := q.respond(dnsmessage.RCodeSuccess)
	h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: answerTTL}
	if b.StartAnswers() != nil {
		return nil
	}
	if canonical != q.name {
		to, err := dnsmessage.NewName(canonical + ".")
		if err != nil || b.CNAMEResource(h, dnsmessage.CNAMEResource{CNAME: to}) != nil {
			return nil
		}
		h.Name = to
	}
	for _, a := range addrs { // none of the family: an empty answer, not an error
		var err error
		switch {
		case a.Is4() && q.question.Type == dnsmessage.TypeA:
			err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.question.Type == dnsmessage.TypeAAAA:
			err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil
		}
	}
	return q.finish(b, limit)
}

// respond begins a response with the question repeated.
func (q *query) respond(code dnsmessage.RCode) *dnsmessage.Builder {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.header.ID, Response: true, OpCode: q.header.OpCode, Authoritative: code == dnsmessage.RCodeSuccess,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, RCode: code})
	b.EnableCompression()
	_ = b.StartQuestions() // in order: cannot fail
	_ = b.Question(q.question)
	return &b
}

func (q *query) finish(b *dnsmessage.Builder, limit int) []byte {
	msg := q.end(b)
	if msg == nil || len(msg) > maxMessage {
		return q.fail(dnsmessage.RCodeServerFailure)
	}
	if len(msg) > limit {
		return q.truncated()
	}
	return msg
}

// end completes a response; one to a query with EDNS says that we speak it too
// (RFC 6891 section 6.1.1: any response, or the asker takes us for a server that
// does not). nil: it does not fit into a message.
func (q *query) end(b *dnsmessage.Builder) []byte {
	if q.edns {
		var opt dnsmessage.ResourceHeader
		if b.StartAdditionals() != nil || opt.SetEDNS0(maxUDP, dnsmessage.RCodeSuccess, false) != nil || b.OPTResource(opt, dnsmessage.OPTResource{}) != nil {
			return nil
		}
	}
	msg, err := b.Finish()
	if err != nil {
		return nil
	}
	return msg
}

// truncated has no answers, and says so (RFC 1035 section 4.1.1, TC).
func (q *query) truncated() []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.header.ID, Response: true, Truncated: true, RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true})
	_ = b.StartQuestions()
	_ = b.Question(q.question)
	return q.end(&b)
}

// fail is a response with nothing but a code.
func (q *query) fail(code dnsmessage.RCode) []byte { return q.end(q.respond(code)) }
