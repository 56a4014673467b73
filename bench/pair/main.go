// Command pair measures two sidecars in a row (plaintext in, mutual TLS
// between them, plaintext out) beside HAProxy in the same roles and in the same
// run, round by round. The sidecars are real processes: certificates from the
// CA, configuration over xDS, compiled from pair.yaml; routing, authorization,
// metrics and access log are on. The peers only forward with mutual TLS.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "workloads, comma separated (default: all): "+strings.Join(names(), ", "))
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; every round measures every pair once")
	flag.IntVar(&o.seconds, "seconds", 5, "seconds of load on a pair in a round")
	flag.Int64Var(&o.bytes, "bytes", 256<<20, "bytes that the tcp workload sends (1 GiB is 1073741824)")
	flag.StringVar(&o.json, "json", "", "write the results to this file")
	flag.StringVar(&o.binary, "proxy", "", "tulle-proxy to measure (default: build it)")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of each sidecar into this folder while a workload loads it")
	flag.StringVar(&o.reference, "reference", "", "instead of our own load run this script, which starts its own peers and takes --also NAME URL PID PID; with -only h2 it is given --h2")
	env := flag.String("env", "", "environment of the sidecars, comma separated (GOGC=200,...)")
	flag.Parse()
	if *env != "" {
		o.env = strings.Split(*env, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "pair:", err)
		os.Exit(1)
	}
}

type options struct {
	only, json, binary, profile, reference string
	rounds, seconds                        int
	bytes                                  int64
	env                                    []string
}

func (o *options) duration() time.Duration { return time.Duration(o.seconds) * time.Second }

// bench is what is up while workloads run.
type bench struct {
	options
	peers *peers
	pair  *pair
}

func run(ctx context.Context, o options) error {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	if o.rounds < 1 || o.seconds < 1 {
		return errors.New("-rounds and -seconds must be positive")
	}
	dir, err := os.MkdirTemp("", "tulle-pair")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o}
	if b.pair, err = startPair(ctx, dir, o.binary, o.env); err != nil {
		return err
	}
	defer b.pair.stop()
	if o.reference != "" {
		return b.runReference(ctx)
	}
	if b.peers, err = startPeers(ctx, dir); err != nil {
		return err
	}
	defer b.peers.stop()
	var all []*result
	var failed error
	for _, w := range chosen {
		r, err := b.measure(ctx, w)
		if err != nil {
			if unready := (*unsupported)(nil); errors.As(err, &unready) && o.only == "" {
				fmt.Printf("%-18s not measured: %v\n", w.name, err)
				continue
			}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.name, err))
			continue
		}
		all = append(all, r)
	}
	report(os.Stdout, all)
	if o.json != "" {
		text, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return failed
}

func choose(only string) ([]*workload, error) {
	all := workloads()
	if only == "" {
		return all, nil
	}
	var chosen []*workload
next:
	for _, name := range strings.Split(only, ",") {
		for _, w := range all {
			if w.name == name {
				chosen = append(chosen, w)
				continue next
			}
		}
		return nil, fmt.Errorf("no workload %q; there are %s", name, strings.Join(names(), ", "))
	}
	return chosen, nil
}

func names() []string {
	var all []string
	for _, w := range workloads() {
		all = append(all, w.name)
	}
	return all
}
