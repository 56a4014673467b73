package xds

import (
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// EncodeNode writes a node as Istio's agents do.
func EncodeNode(n ir.Node) *core.Node {
	labels := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range n.Labels {
		labels.Fields[k] = structpb.NewStringValue(v)
	}
	str := structpb.NewStringValue
	return &core.Node{Id: n.ID(), Cluster: n.WorkloadName + "." + n.Namespace, UserAgentName: "tulle", Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
		"NAMESPACE": str(n.Namespace), "NAME": str(n.Name), "SERVICE_ACCOUNT": str(n.ServiceAccount), "WORKLOAD_NAME": str(n.WorkloadName),
		"CLUSTER_ID": str(n.ClusterID), "INSTANCE_IPS": str(strings.Join(n.IPs, ",")), "LABELS": structpb.NewStructValue(labels), "TRUST_DOMAIN": str(n.TrustDomain),
	}}}
}

// DecodeNode reads what an agent says of itself.
func DecodeNode(m *core.Node) (ir.Node, error) {
	if m == nil {
		return ir.Node{}, fmt.Errorf("the first request has no node")
	}
	n, err := ir.ParseNodeID(m.Id)
	if err != nil {
		return n, err
	}
	f := m.Metadata.GetFields()
	str := func(key string) string { return f[key].GetStringValue() }
	if ns := str("NAMESPACE"); ns != "" && ns != n.Namespace {
		return n, fmt.Errorf("node id says namespace %s, metadata %s", n.Namespace, ns)
	}
	n.ServiceAccount, n.WorkloadName, n.ClusterID, n.TrustDomain = str("SERVICE_ACCOUNT"), str("WORKLOAD_NAME"), str("CLUSTER_ID"), str("TRUST_DOMAIN")
	if ips := str("INSTANCE_IPS"); ips != "" {
		n.IPs = strings.Split(ips, ",")
	}
	if labels := f["LABELS"].GetStructValue(); labels != nil {
		n.Labels = map[string]string{}
		for k, v := range labels.Fields {
			n.Labels[k] = v.GetStringValue()
		}
	}
	return n, nil
}
