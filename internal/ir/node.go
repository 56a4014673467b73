package ir

import (
	"fmt"
	"strings"
)

// NodeType is the role of a proxy, as in Istio's node id.
type NodeType string

const (
	Sidecar NodeType = "sidecar"
	Router  NodeType = "router" // a gateway
)

// Node is one proxy and the workload it stands for. It is what a proxy says of
// itself when it connects; compile uses nothing else to tell proxies apart.
type Node struct {
	Type           NodeType          `json:"type"`
	Name           string            `json:"name"` // the instance (pod) name
	Namespace      string            `json:"namespace"`
	IPs            []string          `json:"ips,omitempty"` // first one is the primary
	Labels         map[string]string `json:"labels,omitempty"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	WorkloadName   string            `json:"workloadName,omitempty"` // the Deployment, StatefulSet or Job
	TrustDomain    string            `json:"trustDomain,omitempty"`  // default cluster.local
	ClusterID      string            `json:"clusterId,omitempty"`
	DNSDomain      string            `json:"dnsDomain,omitempty"` // "<ns>.svc.cluster.local"
}

// ID is Istio's node id: type~ip~name.namespace~dnsDomain.
func (n Node) ID() string {
	ip := ""
	if len(n.IPs) > 0 {
		ip = n.IPs[0]
	}
	domain := n.DNSDomain
	if domain == "" {
		domain = n.Namespace + ".svc.cluster.local"
	}
	return fmt.Sprintf("%s~%s~%s.%s~%s", n.Type, ip, n.Name, n.Namespace, domain)
}

// ParseNodeID takes an Istio node id apart. Fields that the id does not carry
// (labels, service account) stay empty.
func ParseNodeID(id string) (Node, error) {
	parts := strings.Split(id, "~")
	if len(parts) != 4 {
		return Node{}, fmt.Errorf("node id %q: want type~ip~name.namespace~domain", id)
	}
	t := NodeType(parts[0])
	if t != Sidecar && t != Router {
		return Node{}, fmt.Errorf("node id %q: type %q is not served (sidecar and router are)", id, parts[0])
	}
	dot := strings.LastIndexByte(parts[2], '.')
	if dot <= 0 || dot == len(parts[2])-1 {
		return Node{}, fmt.Errorf("node id %q: %q is not name.namespace", id, parts[2])
	}
	n := Node{Type: t, Name: parts[2][:dot], Namespace: parts[2][dot+1:], DNSDomain: parts[3]}
	if parts[1] != "" {
		n.IPs = []string{parts[1]}
	}
	return n, nil
}

// Principal is the workload's SPIFFE ID.
func (n Node) Principal() string {
	td, sa := n.TrustDomain, n.ServiceAccount
	if td == "" {
		td = "cluster.local"
	}
	if sa == "" {
		sa = "default"
	}
	return "spiffe://" + td + "/ns/" + n.Namespace + "/sa/" + sa
}
