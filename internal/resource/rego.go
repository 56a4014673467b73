package resource

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/rego"
)

// Annotations of a ConfigMap whose Rego decides in the sidecars. To Istio the
// ConfigMap is one like any other, and it asks the provider's service.
const (
	// RegoProvider names the extension provider (envoyExtAuthzGrpc) for which
	// the ConfigMap decides.
	RegoProvider = "tulle.dev/rego-provider"
	regoPath     = "tulle.dev/rego-path" // default envoy/authz/allow
	regoPrefix   = "tulle.dev/rego-"
	// What a missing decision counts as: deny, allow or error.
	regoOnUndefined = "tulle.dev/rego-on-undefined"
	regoOnError     = "tulle.dev/rego-on-error"
	regoOnTimeout   = "tulle.dev/rego-on-timeout"
)

// maxRego bounds a policy with its data: every sidecar that asks gets it.
const maxRego = 1 << 20

// regoFault is a fault of one key of a ConfigMap.
type regoFault struct{ path, reason, hint string }

// RegoOf is the policy in a ConfigMap that names a provider; nil for any other
// ConfigMap. It has been checked with the ConfigMap.
func RegoOf(c *ConfigMap) *ir.Rego {
	if c.Annotations[RegoProvider] == "" {
		return nil
	}
	r, faults := readRego(&c.Meta, c.Spec)
	if len(faults) > 0 {
		return nil
	}
	return r
}

// checkRego refuses a ConfigMap whose policy cannot decide. What is left of it
// is the mark that the provider refuses what it would have been asked.
func (o *object) checkRego(list *[]*ConfigMap) {
	provider := o.Annotations[RegoProvider]
	if provider == "" {
		o.checkRegoAnnotations(provider)
	}
	if o.bad || provider == "" || len(*list) == 0 || (*list)[len(*list)-1].Name != o.Name {
		if provider != "" && o.bad {
			o.p.set.BrokenRego = append(o.p.set.BrokenRego, o.Meta)
		}
		return
	}
	o.checkRegoAnnotations(provider)
	c := (*list)[len(*list)-1]
	r, faults := readRego(&c.Meta, c.Spec)
	if len(r.Modules) > 0 {
		found, warnings := rego.Check(r)
		for _, f := range found {
			path, reason := "data", f.Reason
			if f.File != "" {
				path, reason = "data."+f.File, f.File+":"+strconv.Itoa(f.Line)+": "+f.Reason
			}
			faults = append(faults, regoFault{path, reason, ""})
		}
		for _, w := range warnings {
			o.warn("data", w)
		}
	}
	for _, key := range sortedKeys(c.Spec.Data) {
		if !slices.ContainsFunc([]string{".rego", ".json", ".yaml", ".yml"}, func(end string) bool { return strings.HasSuffix(key, end) }) {
			o.warn("data."+key, "neither a module (.rego) nor data (.json, .yaml, .yml): it is not used")
		}
	}
	for _, key := range sortedKeys(c.Spec.BinaryData) {
		if !strings.HasSuffix(key, ".tar.gz") {
			o.warn("binaryData."+key, "no bundle (.tar.gz): it is not used")
		}
	}
	for _, f := range faults {
		o.fail(f.path, f.reason, f.hint)
	}
	if o.bad {
		*list = (*list)[:len(*list)-1]
		o.p.set.BrokenRego = append(o.p.set.BrokenRego, o.Meta)
	}
}

// checkRegoAnnotations refuses what looks like an annotation of ours and is none:
// somebody thinks that it is in force.
func (o *object) checkRegoAnnotations(provider string) {
	for _, name := range sortedKeys(o.Annotations) {
		if !strings.HasPrefix(name, regoPrefix) {
			continue
		}
		switch known := slices.Contains([]string{RegoProvider, regoPath, regoOnUndefined, regoOnError, regoOnTimeout}, name); {
		case !known && provider != "":
			o.fail("metadata.annotations."+name, "no such annotation", "there are rego-provider, rego-path, rego-on-undefined, rego-on-error and rego-on-timeout")
		case provider == "":
			o.warn("metadata.annotations."+name, "has no effect without "+RegoProvider)
		}
	}
}

// readRego collects what the ConfigMap says.
func readRego(m *Meta, c *corev1.ConfigMap) (*ir.Rego, []regoFault) {
	r := &ir.Rego{Name: "ConfigMap " + m.Namespace + "/" + m.Name, Query: rego.Query(m.Annotations[regoPath]), Modules: map[string]string{}}
	var faults []regoFault
	for _, a := range []struct {
		name string
		to   *ir.RegoOutcome
	}{{regoOnUndefined, &r.OnUndefined}, {regoOnError, &r.OnError}, {regoOnTimeout, &r.OnTimeout}} {
		v := ir.RegoOutcome(m.Annotations[a.name])
		if v != "" && v != ir.RegoDeny && v != ir.RegoAllow && v != ir.RegoFail {
			faults = append(faults, regoFault{"metadata.annotations." + a.name, strconv.Quote(string(v)) + " is none of deny, allow and error", ""})
		}
		*a.to = v
	}
	data, size := map[string]any{}, 0
	for _, key := range sortedKeys(c.Data) {
		text := c.Data[key]
		size += len(text)
		fault := ""
		switch {
		case strings.HasSuffix(key, "_test.rego"):
		case strings.HasSuffix(key, ".rego"):
			r.Modules[key] = text
		case key == "config.yaml" || key == "config.yml" || key == "config.json":
			faults = append(faults, opaConfig(r, "data."+key, text)...)
		case strings.HasSuffix(key, ".json") || strings.HasSuffix(key, ".yaml") || strings.HasSuffix(key, ".yml"):
			if doc, err := rego.ParseData([]byte(text)); err != nil {
				fault = err.Error()
			} else {
				fault = merge(data, doc)
			}
		}
		if fault != "" {
			faults = append(faults, regoFault{"data." + key, fault, ""})
		}
	}
	for _, key := range sortedKeys(c.BinaryData) {
		size += len(c.BinaryData[key])
		if !strings.HasSuffix(key, ".tar.gz") {
			continue
		}
		modules, doc, err := rego.ReadBundle(c.BinaryData[key])
		if err != nil {
			faults = append(faults, regoFault{"binaryData." + key, err.Error(), ""})
			continue
		}
		for name, text := range modules {
			r.Modules[key+name] = text
		}
		if fault := merge(data, doc); fault != "" {
			faults = append(faults, regoFault{"binaryData." + key, fault, ""})
		}
	}
	switch {
	case size > maxRego:
		faults = append(faults, regoFault{"data", fmt.Sprintf("the policy is larger than %d KiB", maxRego>>10), "run OPA as a service"})
	case len(r.Modules) == 0:
		faults = append(faults, regoFault{"data", "no key ends in .rego", ""})
	}
	if len(data) > 0 {
		b, err := json.Marshal(data)
		if err != nil {
			faults = append(faults, regoFault{"data", err.Error(), ""})
		}
		r.Data = string(b)
	}
	return r, faults
}

// merge adds a document to the data; what is wrong, "" for nothing.
func merge(data, doc map[string]any) string {
	for _, k := range sortedKeys(doc) {
		if _, ok := data[k]; ok {
			return "data." + k + " is defined twice"
		}
		data[k] = doc[k]
	}
	return ""
}

// opaConfig reads OPA's own configuration file, as far as it makes sense for a
// policy that configuration brings; the rest is refused by name.
func opaConfig(r *ir.Rego, at, text string) (faults []regoFault) {
	refuse := func(path, reason, hint string) { faults = append(faults, regoFault{at, path + ": " + reason, hint}) }
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return []regoFault{{at, err.Error(), ""}}
	}
	for _, key := range sortedKeys(doc) {
		section, _ := doc[key].(map[string]any)
		switch key {
		case "labels":
			r.Labels = map[string]string{}
			for k, v := range section {
				r.Labels[k] = fmt.Sprint(v)
			}
		case "decision_logs":
			for _, k := range sortedKeys(section) {
				var ok bool
				switch k {
				case "console":
					r.DecisionLog, ok = section[k].(bool)
				case "mask_decision":
					r.MaskPath, ok = section[k].(string)
				case "drop_decision":
					r.DropPath, ok = section[k].(string)
				}
				if !ok {
					refuse("decision_logs."+k, "not supported in a sidecar", "console, mask_decision and drop_decision are; run OPA as a service to have decisions uploaded")
				}
			}
		case "plugins":
			for _, k := range sortedKeys(section) {
				plugin, _ := section[k].(map[string]any)
				if k != "envoy_ext_authz_grpc" {
					refuse("plugins."+k, "not supported", "")
					continue
				}
				pluginConfig(r, plugin, refuse)
			}
		case "default_decision": // of OPA's REST API, which a sidecar has not
		case "services", "bundles", "discovery":
			refuse(key, "a sidecar fetches no policy: it comes with the configuration", "put the bundle into binaryData (NAME.tar.gz), or run OPA as a service")
		default:
			refuse(key, "not supported in a sidecar", "run OPA as a service")
		}
	}
	return faults
}

// pluginConfig reads what concerns decisions of the Envoy plugin's section; the
// addresses it would listen on have no meaning here.
func pluginConfig(r *ir.Rego, plugin map[string]any, refuse func(path, reason, hint string)) {
	for _, k := range sortedKeys(plugin) {
		ok := true
		switch k {
		case "path":
			var path string
			path, ok = plugin[k].(string)
			r.Query = rego.Query(path)
		case "query":
			r.Query, ok = plugin[k].(string)
		case "dry-run":
			r.DryRun, ok = plugin[k].(bool)
		case "skip-request-body-parse":
			r.SkipBody, ok = plugin[k].(bool)
		default:
			ok = slices.Contains([]string{"addr", "enable-reflection", "grpc-max-recv-msg-size", "grpc-max-send-msg-size", "enable-performance-metrics"}, k)
		}
		if !ok {
			refuse("plugins.envoy_ext_authz_grpc."+k, "not supported", "")
		}
	}
}
