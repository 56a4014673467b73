package opa

import (
	"context"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/tester"
)

// ParseArgs understands the arguments that manifests give the image
// openpolicyagent/opa with its Envoy plugin. What it does not know it refuses
// by name: a flag that is ignored could be a policy that is not loaded.
func ParseArgs(args []string) (Options, error) {
	o := Options{Addr: ":8181", GRPCAddr: ":9191"}
	for i := 0; i < len(args); i++ {
		a := args[i]
		name, value, inline := strings.Cut(a, "=")
		take := func() string {
			if !inline && i+1 < len(args) {
				i++
				return args[i]
			}
			return value
		}
		switch name {
		case "opa", "run", "--server", "-s":
		case "--addr", "-a":
			o.Addr = strings.TrimPrefix(take(), "http://")
		case "--diagnostic-addr", "--log-level", "--log-format", "--ignore", "--watch", "-w", "-l":
			if name != "--watch" && name != "-w" {
				take() // our own logging and health serve; nothing of the policy depends on it
			}
		case "--set":
			if err := o.set(take()); err != nil {
				return o, err
			}
		case "--config-file", "-c":
			if err := o.configFile(take()); err != nil {
				return o, err
			}
		case "--bundle", "-b": // the paths behind it are read as what they are
		default:
			if strings.HasPrefix(a, "-") {
				return o, fmt.Errorf("argument %s of opa is not supported", name)
			}
			o.Paths = append(o.Paths, strings.TrimPrefix(a, "file://"))
		}
	}
	if len(o.Paths) == 0 {
		return o, fmt.Errorf("no policy file or folder is given")
	}
	return o, nil
}

func (o *Options) set(kv string) error {
	key, value, ok := strings.Cut(kv, "=")
	if !ok {
		return fmt.Errorf("--set %s: want key=value", kv)
	}
	switch key {
	case "plugins.envoy_ext_authz_grpc.addr":
		o.GRPCAddr = value
	case "plugins.envoy_ext_authz_grpc.path":
		o.Path = value
	case "plugins.envoy_ext_authz_grpc.query":
		o.Path = strings.ReplaceAll(strings.TrimPrefix(value, "data."), ".", "/")
	case "decision_logs.console":
		o.Console = value == "true"
	case "plugins.envoy_ext_authz_grpc.dry-run", "plugins.envoy_ext_authz_grpc.enable-reflection":
		if value != "false" {
			return fmt.Errorf("--set %s: not supported", kv)
		}
	default:
		return fmt.Errorf("--set %s: this key is not supported", key)
	}
	return nil
}

// TestResult is one Rego test.
type TestResult struct {
	Name, Location string
	Failed         bool
	Detail         string
}

// Test runs the Rego tests in the paths, as `opa test` does.
func Test(ctx context.Context, paths []string) ([]TestResult, error) {
	modules, store, err := tester.Load(paths, nil)
	if err != nil {
		return nil, err
	}
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	defer store.Abort(ctx, txn)
	ch, err := tester.NewRunner().SetStore(store).SetModules(modules).RunTests(ctx, txn)
	if err != nil {
		return nil, err
	}
	var out []TestResult
	for r := range ch {
		t := TestResult{Name: r.Package + "." + r.Name, Location: r.Location.String(), Failed: r.Fail || r.Error != nil}
		if r.Error != nil {
			t.Detail = r.Error.Error()
		}
		out = append(out, t)
	}
	return out, nil
}
