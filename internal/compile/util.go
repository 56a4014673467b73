package compile

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func itoa(n int) string { return strconv.Itoa(n) }

// at formats a field path: at("spec.http", 0, "route") is spec.http[0].route.
func at(parts ...any) string {
	var b strings.Builder
	for i, p := range parts {
		switch p := p.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", p)
		case string:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(p)
		}
	}
	return b.String()
}

// dur converts a duration; nil is fallback.
func dur(d *durationpb.Duration, fallback ir.Duration) ir.Duration {
	if d == nil {
		return fallback
	}
	return ir.Duration(d.AsDuration())
}
