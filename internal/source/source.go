// Package source is where resources come from: folders of YAML, watched. Other
// sources (a cluster's API server) satisfy the same interface from rooms of
// their own.
package source

import (
	"context"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Update is everything a source knows now: never a delta. Problems belong to
// the Set; an object with an error is not in it (or is in Set.Denied).
type Update struct {
	Set      *resource.Set
	Problems []resource.Problem
}

// Source produces updates. Run calls emit at least once, with the first
// complete Update, and again after each change, from one goroutine, until ctx
// ends; it returns nil then. emit must not block for long.
type Source interface {
	Name() string
	Run(ctx context.Context, emit func(Update)) error
}
