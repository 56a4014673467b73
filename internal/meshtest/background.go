package meshtest

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// running are requests in the background.
type running struct {
	step *step
	who  string
	req  *request
	mark marks
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	outs []outcome
}

func (b *running) add(o outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outs = append(b.outs, o)
}

// begin starts requests that go on while the script does.
func (r *runner) begin(st *step, rest string) error {
	name, what, ok := strings.Cut(rest, ": from ")
	if !ok || r.started[name] != nil {
		return fmt.Errorf("want \"begin NAME: from …\" with a name that is not in use")
	}
	q, err := r.question(st, what)
	if err != nil {
		return err
	}
	b := &running{step: st, who: q.who, req: q.req, mark: r.marks(), stop: make(chan struct{})}
	r.started[name] = b
	send := func(id string) { b.wg.Go(func() { b.add(r.once(st, q, id)) }) }
	if q.every == 0 {
		for range q.times {
			send(r.nextID())
		}
		synctest.Wait()
		return nil
	}
	b.wg.Go(func() {
		tick := time.NewTicker(q.every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				send(name + strconv.Itoa(i))
			case <-b.stop:
				return
			}
		}
	})
	return nil
}

// end waits for them and checks how they went.
func (r *runner) end(st *step, name string) error {
	b := r.started[name]
	if b == nil {
		return fmt.Errorf("nothing named %q was begun", name)
	}
	delete(r.started, name)
	close(b.stop)
	b.wg.Wait()
	synctest.Wait()
	return r.check(st, b.outs, b.mark, b.req)
}

// abandon ends what a failed script left running.
func (r *runner) abandon() {
	for _, p := range r.world.pods {
		if p.app != nil {
			p.app.cancel()
		}
	}
	for _, b := range r.started {
		close(b.stop)
	}
	r.world.net.closeAll()
	for _, b := range r.started {
		b.wg.Wait()
	}
}
