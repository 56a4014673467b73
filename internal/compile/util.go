package compile

import (
	"strconv"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

func itoa(n int) string { return strconv.Itoa(n) }

// at is resource.FieldPath, which is written at every report.
func at(parts ...any) string { return resource.FieldPath(parts...) }

// dur converts a duration; nil is fallback.
func dur(d *durationpb.Duration, fallback ir.Duration) ir.Duration {
	if d == nil {
		return fallback
	}
	return ir.Duration(d.AsDuration())
}
