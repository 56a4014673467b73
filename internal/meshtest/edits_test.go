package meshtest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestEditsLoseNothing changes the configuration at random while requests are
// under way: whatever the order, each is answered by the application, at the
// first try.
func TestEditsLoseNothing(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { editUnderLoad(t, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func editUnderLoad(t *testing.T, random *rand.Rand) {
	w := shopWorld(t, "")
	defer w.close()
	r := &runner{t: t, script: &script{file: "edits"}, world: w, started: map[string]*running{}}
	if err := r.behave("worker", "delay 3ms"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var load, requests sync.WaitGroup
	var mu sync.Mutex
	var outs []outcome
	web := w.pods["web-0"].client
	load.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			requests.Go(func() {
				o := web.do(&request{method: http.MethodPost, url: "http://worker:8000/", header: http.Header{}, body: []byte("once")}, fmt.Sprint("load", i))
				mu.Lock()
				defer mu.Unlock()
				outs = append(outs, o)
			})
		}
	})
	var history []string
	for range 60 {
		pause(t.Context(), time.Duration(1+random.IntN(20))*time.Millisecond)
		history = append(history, edit(t, r, random))
	}
	close(stop)
	load.Wait()
	requests.Wait()
	for i := range outs {
		o := &outs[i]
		if o.err != nil || o.status != http.StatusOK || o.body != "once" {
			t.Fatalf("%s (%s)\nafter %s", o, o.body, strings.Join(history, "; "))
		}
		attempts := 0
		for _, p := range w.pods {
			if p.app != nil {
				attempts += len(p.app.sawRequest(map[string]bool{o.id: true}))
			}
		}
		if attempts != 1 {
			t.Fatalf("a POST arrived %d times", attempts)
		}
	}
	if len(outs) < 300 {
		t.Fatalf("only %d requests", len(outs))
	}
}

// edit makes one change that loses nothing if it is done right.
func edit(t *testing.T, r *runner, random *rand.Rand) string {
	t.Helper()
	w := r.world
	what, err := "", error(nil)
	apply := func(text string) {
		err = r.apply([]document{identify(document{file: "edit", line: 1, text: text})}, nil)
	}
	switch random.IntN(6) {
	case 0:
		what = []string{"STRICT", "PERMISSIVE"}[random.IntN(2)]
		apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: " + what + "}}\n")
	case 1:
		what = []string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"}[random.IntN(3)]
		apply("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: worker, namespace: shop}\nspec:\n  host: worker\n  trafficPolicy: {loadBalancer: {simple: " + what +
			"}}\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n")
	case 2:
		if !strings.Contains(fmt.Sprint(w.docs), "kind: DestinationRule") {
			return "no subsets yet"
		}
		weight := random.IntN(101)
		what = fmt.Sprintf("weights %d:%d", weight, 100-weight)
		apply(fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: worker, namespace: shop}\nspec:\n  hosts: [worker]\n  http:\n  - retries: {attempts: 0}\n    route: [{destination: {host: worker, subset: v1}, weight: %d}, {destination: {host: worker, subset: v2}, weight: %d}]\n", weight, 100-weight))
	case 3:
		// One instance of a version at most is out.
		name := fmt.Sprintf("worker-v%d-0", 1+random.IntN(2))
		what = "unready " + name
		w.unready[name] = !w.unready[name]
		err = r.reconcile()
	case 4:
		what = "log format"
		apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    accessLogFormat: \"" + fmt.Sprint(random.IntN(10)) + " %RESPONSE_CODE%\"\n")
	case 5:
		what = "allow web"
		apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: worker, namespace: shop}\nspec:\n  selector: {matchLabels: {app: worker}}\n  rules: [{to: [{operation: {methods: [POST]}}]}]\n")
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return what
}
