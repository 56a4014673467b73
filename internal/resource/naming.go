package resource

// Naming is what a replica goes by. People name a replica, the workload that it
// is of, either with or without ".NAMESPACE", or a component.
type Naming struct {
	Name, Namespace, Owner string
	Labels                 map[string]string
}

// Naming of the workload's replica.
func (w *Workload) Naming() Naming { return Naming{w.Name, w.Namespace, w.Owner, w.Labels} }

// Ranks of a name, the nearest first.
const (
	byName = iota + 1
	byOwner
	byLabel
)

// rank says as what the name is the replica's; 0: it is not.
func (n Naming) rank(asked string) int {
	if asked == "" { // what has no owner or label does not go by its absence
		return 0
	}
	switch asked {
	case n.Name, n.Name + "." + n.Namespace:
		return byName
	case n.Owner, n.Owner + "." + n.Namespace:
		return byOwner
	case n.Labels["app.kubernetes.io/component"], n.Labels["app"]:
		return byLabel
	}
	return 0
}

// Matches reports whether the replica goes by the name at all; every one goes
// by "".
func (n Naming) Matches(asked string) bool { return asked == "" || n.rank(asked) > 0 }

// Named are those of the list that a name means: the replica of that name, else
// the replicas of a workload of that name, else those of a component.
func Named[T any](list []T, asked string, of func(T) Naming) []T {
	var found [byLabel + 1][]T
	for _, x := range list {
		rank := of(x).rank(asked)
		found[rank] = append(found[rank], x)
	}
	for _, nearest := range found[byName:] {
		if len(nearest) > 0 {
			return nearest
		}
	}
	return nil
}

// Shortest returns how to name each of the list so that nobody takes it for
// another: by its name, with its namespace where another one has that name.
func Shortest[T any](list []T, of func(T) Naming) func(T) string {
	count := map[string]int{}
	for _, x := range list {
		count[of(x).Name]++
	}
	return func(x T) string {
		n := of(x)
		if count[n.Name] > 1 {
			return n.Name + "." + n.Namespace
		}
		return n.Name
	}
}
