package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// result of one workload.
type result struct {
	Workload string `json:"workload"`
	// Medians by figure and pair.
	Medians map[string]map[string]float64 `json:"medians"`
	// Rounds holds every measurement by pair.
	Rounds map[string][]sample `json:"rounds"`
	// Ratio to HAProxy of the judged figure, the worse one where there are two.
	Ratio float64 `json:"ratio_to_haproxy"`

	workload *workload
}

// measure runs all rounds of a workload, the pairs in turn within a round.
func (b *bench) measure(ctx context.Context, w *workload) (*result, error) {
	if w.http2 != 0 && !b.pair.http2(w.http2) {
		return nil, &unsupported{"this build forwards HTTP/2 as bytes: there is no pair of HTTP/2 proxies to measure"}
	}
	r := &result{Workload: w.name, workload: w, Rounds: map[string][]sample{}, Medians: map[string]map[string]float64{}}
	for round := range b.rounds {
		for _, pair := range w.pairs {
			s, err := b.once(ctx, w, pair)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", pair, round+1, err)
			}
			r.Rounds[pair] = append(r.Rounds[pair], s)
			fmt.Printf("%-18s %-8s", w.name, pair)
			for _, f := range w.figures {
				fmt.Printf("  %s %.*f %s", f.name, decimals(s[f.name]), s[f.name], f.unit)
			}
			fmt.Println()
		}
	}
	for _, f := range w.figures {
		r.Medians[f.name] = map[string]float64{}
		for _, pair := range w.pairs {
			r.Medians[f.name][pair] = median(r.Rounds[pair], f.name)
		}
	}
	r.Ratio = worst(w.figures, r.Medians)
	return r, nil
}

func (b *bench) once(ctx context.Context, w *workload, pair string) (sample, error) {
	if pair == tulle && b.profile != "" {
		defer b.takeProfiles(ctx, w.name)()
	}
	return w.run(ctx, b, pair)
}

func median(samples []sample, figure string) float64 {
	var v []float64
	for _, s := range samples {
		v = append(v, s[figure])
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// worst is the least favourable ratio of the judged figures.
func worst(figures []figure, medians map[string]map[string]float64) float64 {
	worst, first := 0.0, true
	for _, f := range figures {
		if !f.judged {
			continue
		}
		ratio := medians[f.name][tulle] / medians[f.name][haproxy]
		if first || f.higher && ratio < worst || !f.higher && ratio > worst {
			worst, first = ratio, false
		}
	}
	return worst
}

func decimals(v float64) int {
	if v >= 100 {
		return 0
	}
	return 3
}

// report prints a table of medians and then one line for each workload.
func report(w io.Writer, all []*result) {
	fmt.Fprintln(w, "\nmedians")
	for _, r := range all {
		for _, f := range r.workload.figures {
			fmt.Fprintf(w, "%-18s %-16s", r.Workload, f.name)
			for _, pair := range r.workload.pairs {
				v := r.Medians[f.name][pair]
				fmt.Fprintf(w, "  %s %.*f", pair, decimals(v), v)
			}
			note := "lower is better"
			if f.higher {
				note = "higher is better"
			}
			fmt.Fprintf(w, "  (%s, %s)\n", f.unit, note)
		}
	}
	fmt.Fprintln(w)
	for _, r := range all {
		fmt.Fprintf(w, "%s ratio_to_haproxy %.2f\n", r.Workload, r.Ratio)
	}
}

// takeProfiles profiles both sidecars until the function it returns is called;
// that one waits for the profiles.
func (b *bench) takeProfiles(ctx context.Context, workload string) func() {
	var wg sync.WaitGroup
	for name, port := range map[string]int{"client": clientDebug, "server": serverDebug} {
		wg.Go(func() {
			url := fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", port, max(1, b.seconds-1))
			if err := download(ctx, url, filepath.Join(b.profile, workload+"-"+name+".pprof")); err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
		})
	}
	return wg.Wait
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
