package resource

import "strings"

// PodLocality is where a Pod's label istio-locality says that it is, as
// region/zone/subzone; "" without the label. Labels cannot hold slashes, so
// that Istio takes dots, unless somebody wrote slashes after all.
func PodLocality(labels map[string]string) string {
	l := labels["istio-locality"]
	if strings.Contains(l, "/") {
		return l
	}
	return strings.ReplaceAll(l, ".", "/")
}
