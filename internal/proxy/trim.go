package proxy

import (
	"sync"
	"time"
)

const (
	trimPause = 10 * time.Second // between what made memory free and giving it back: more may come
	trimRests = 256              // connections that must have come to rest, some megabytes' worth
)

// trimmer gives memory back to the system after something large has become
// free: an old configuration, the buffers of many connections that now rest. Go
// collects when the heap has doubled, which an idle sidecar's never does again.
type trimmer struct {
	free func() // nil: never

	mu    sync.Mutex
	rests int
	timer *time.Timer // armed while a trim is due
}

// soon arranges for one trim after the pause.
func (t *trimmer) soon() {
	if t.free == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		return
	}
	t.timer = time.AfterFunc(trimPause, func() {
		t.mu.Lock()
		t.timer, t.rests = nil, 0
		t.mu.Unlock()
		t.free()
	})
}

// rested counts a connection that has come to rest.
func (t *trimmer) rested() {
	t.mu.Lock()
	t.rests++
	enough := t.rests >= trimRests
	t.mu.Unlock()
	if enough {
		t.soon()
	}
}

// stop forgets a trim that is due.
func (t *trimmer) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}
