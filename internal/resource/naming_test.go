package resource

import (
	"slices"
	"testing"
)

func TestNamed(t *testing.T) {
	list := []*Workload{
		{Name: "api-0", Namespace: "shop", Owner: "api", Labels: map[string]string{"app": "store"}},
		{Name: "api-1", Namespace: "shop", Owner: "api", Labels: map[string]string{"app": "store"}},
		{Name: "api-0", Namespace: "mall", Owner: "api"},
		{Name: "api", Namespace: "other", Owner: "b", Labels: map[string]string{"app.kubernetes.io/component": "c"}},
		{Name: "bare", Namespace: "other"},
	}
	for asked, want := range map[string][]int{
		"api-0": {0, 2}, "api-0.mall": {2},
		"api":      {3}, // the replica of that name before the workload
		"api.shop": {0, 1}, "store": {0, 1}, "c": {3},
		"nobody": nil, "": nil,
	} {
		var got []int
		for _, w := range Named(list, asked, (*Workload).Naming) {
			got = append(got, slices.Index(list, w))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q means %v, want %v", asked, got, want)
		}
	}
	if n := list[4].Naming(); !n.Matches("") || n.Matches("api") || !n.Matches("bare.other") {
		t.Error("Matches")
	}
}

func TestShortest(t *testing.T) {
	list := []Naming{{Name: "web-0", Namespace: "shop"}, {Name: "api-0", Namespace: "shop"}, {Name: "web-0", Namespace: "mall"}}
	label := Shortest(list, func(n Naming) Naming { return n })
	for i, want := range []string{"web-0.shop", "api-0", "web-0.mall"} {
		if got := label(list[i]); got != want {
			t.Errorf("%v is called %s, want %s", list[i], got, want)
		}
	}
}
