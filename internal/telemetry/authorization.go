package telemetry

// Authorization is what policies said beside the verdict. The zero value:
// nobody said anything.
type Authorization struct {
	Audit       string // the AUDIT policy that matched
	Deny, Allow Shadow // dry-run policies
	// Would is "allow" or "deny": the verdict were the dry-run policies live.
	Would string
}

// Shadow is what the dry-run policies of one action said.
type Shadow struct {
	Result string // "allowed" or "denied", "" when there are none
	Policy string // that matched
}

// metadata is %DYNAMIC_METADATA(NAMESPACE:KEY)% for what Envoy's RBAC filter
// writes, under the names that Istio gives its dry-run rules. The verdict over
// all of them is ours alone.
func metadata(key string) func(*Record) string {
	switch key {
	case "envoy.common:access_log_hint":
		return func(r *Record) string {
			if r.Authorization.Audit == "" {
				return ""
			}
			return "true"
		}
	case "tulle:audit_policy":
		return func(r *Record) string { return r.Authorization.Audit }
	case "tulle:dry_run_verdict":
		return func(r *Record) string { return r.Authorization.Would }
	case "envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result", "envoy.filters.network.rbac:istio_dry_run_deny_shadow_engine_result":
		return func(r *Record) string { return r.Authorization.Deny.Result }
	case "envoy.filters.http.rbac:istio_dry_run_deny_shadow_effective_policy_id", "envoy.filters.network.rbac:istio_dry_run_deny_shadow_effective_policy_id":
		return func(r *Record) string { return r.Authorization.Deny.Policy }
	case "envoy.filters.http.rbac:istio_dry_run_allow_shadow_engine_result", "envoy.filters.network.rbac:istio_dry_run_allow_shadow_engine_result":
		return func(r *Record) string { return r.Authorization.Allow.Result }
	case "envoy.filters.http.rbac:istio_dry_run_allow_shadow_effective_policy_id", "envoy.filters.network.rbac:istio_dry_run_allow_shadow_effective_policy_id":
		return func(r *Record) string { return r.Authorization.Allow.Policy }
	}
	return nil
}
