package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func ask(w *worker, method, path, body string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.handler().ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
	return rec
}

func TestRunStreamsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker("w1", "v2", 300*time.Millisecond)
		start := time.Now()
		rec := ask(w, "POST", "/jobs/7/run", `{"title": "a", "steps": 3}`)
		want := `{"progress":0,"worker":"w1","version":"v2"}
{"progress":33,"worker":"w1","version":"v2"}
{"progress":66,"worker":"w1","version":"v2"}
{"progress":100,"worker":"w1","version":"v2","state":"done"}
`
		if rec.Code != 200 || rec.Body.String() != want || !rec.Flushed {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if took := time.Since(start); took != 900*time.Millisecond {
			t.Errorf("took %s", took)
		}
		if n := strings.Count(ask(w, "POST", "/jobs/7/run", `{}`).Body.String(), "\n"); n != defaultSteps+1 {
			t.Errorf("%d lines for a job without steps", n)
		}
	})
}

func TestWorkerListsItsRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker("w1", "v1", time.Second)
		done := make(chan struct{})
		go func() {
			defer close(done)
			ask(w, "POST", "/jobs/7/run", `{"title": "a", "steps": 2}`)
		}()
		tick := time.NewTimer(1500 * time.Millisecond)
		<-tick.C
		if got := strings.TrimSpace(ask(w, "GET", "/api/jobs", "").Body.String()); got != `[{"id":"7","title":"a","progress":50}]` {
			t.Errorf("during: %s", got)
		}
		<-done
		if got := strings.TrimSpace(ask(w, "GET", "/api/jobs", "").Body.String()); got != `[]` {
			t.Errorf("after: %s", got)
		}
	})
}

func TestWorkerAnswers(t *testing.T) {
	w := newWorker("w1", "v1", time.Millisecond)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/jobs", `{"id": "3", "title": "a", "steps": 2}`, 202, `"worker":"w1"`},
		{"POST", "/jobs", `{"id": "../x"}`, 400, "id must"},
		{"POST", "/jobs", `{"id": "3", "steps": 1001}`, 400, "steps must"},
		{"POST", "/jobs/x/run", `{}`, 400, "id must"},
		{"POST", "/jobs/3/run", ``, 400, "not the JSON"},
		{"GET", "/work?ms=0", ``, 200, `{"version":"v1","worker":"w1"}`},
		{"GET", "/work?ms=-1", ``, 400, "ms must"},
		{"GET", "/readyz", ``, 200, "ready"},
		{"GET", "/jobs", ``, 405, ""},
	} {
		rec := ask(w, c.method, c.path, c.body)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, rec.Code, rec.Body, c.status, c.want)
		}
	}
}

func TestWorkerFailsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker("w1", "v1", time.Millisecond)
		admin := func(query string) int {
			rec := httptest.NewRecorder()
			w.admin().ServeHTTP(rec, httptest.NewRequest("POST", "/fail"+query, nil))
			return rec.Code
		}
		for _, bad := range []string{"?status=200", "?status=x", "?for=2h", "?for=-1s", "?for=soon"} {
			if code := admin(bad); code != 400 {
				t.Errorf("%s: %d", bad, code)
			}
		}
		if code := admin(""); code != 200 {
			t.Errorf("defaults: %d", code)
		}
		if code := ask(w, "GET", "/work?ms=0", "").Code; code != 500 {
			t.Errorf("failing: %d", code)
		}
		if code := ask(w, "GET", "/healthz", "").Code; code != 200 {
			t.Errorf("health while failing: %d", code)
		}
		timer := time.NewTimer(10 * time.Second)
		<-timer.C
		if code := ask(w, "GET", "/work?ms=0", "").Code; code != 200 {
			t.Errorf("after: %d", code)
		}
	})
}

// The admin handler is not reachable on the service port.
func TestFailIsNotOnTheServicePort(t *testing.T) {
	if code := ask(newWorker("w1", "v1", time.Millisecond), "POST", "/fail", "").Code; code != 404 {
		t.Errorf("%d", code)
	}
}
