package jwt

import (
	"crypto/sha256"
	"sync"
	"unsafe"
)

// generation is how many tokens one half of the cache holds, and
// generationBytes how long they are together: claims take a few times the
// memory of the token that they come from.
const (
	generation      = 1024
	generationBytes = 1 << 20
)

// cache remembers accepted tokens, 2048 at most: when the young half is full
// the old one is forgotten. A token of the old half
// that is asked for moves to the young one. It holds hashes, never tokens, and
// ends with its Verifier, that is, with the keys that it vouches for. The
// caller checks the time on every use.
type cache struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*verified // guarded by mu
	bytes      int                             // of the tokens in young; guarded by mu
}

func (c *cache) get(sum [sha256.Size]byte) *verified {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.young[sum]
	if v == nil {
		if v = c.old[sum]; v != nil {
			c.putLocked(sum, v)
		}
	}
	return v
}

func (c *cache) put(sum [sha256.Size]byte, v *verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(sum, v)
}

func (c *cache) putLocked(sum [sha256.Size]byte, v *verified) {
	if len(c.young) >= generation || c.bytes+v.size > generationBytes {
		c.old, c.young, c.bytes = c.young, nil, 0
	}
	if c.young == nil {
		c.young = map[[sha256.Size]byte]*verified{}
	}
	c.young[sum] = v
	c.bytes += v.size
}

// stringBytes are the bytes of a string, not to be written to.
func stringBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
