package resource

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	meshv1 "istio.io/api/mesh/v1alpha1"
)

// DefaultMesh is MeshConfig as Istio defaults it, as far as Tulle reads it.
func DefaultMesh() *meshv1.MeshConfig {
	return &meshv1.MeshConfig{
		ProxyListenPort:        15001,
		ProxyInboundListenPort: 15006,
		ConnectTimeout:         durationpb.New(10 * time.Second),
		EnableTracing:          true,
		TrustDomain:            "cluster.local",
		EnableAutoMtls:         wrapperspb.Bool(true),
		OutboundTrafficPolicy:  &meshv1.MeshConfig_OutboundTrafficPolicy{Mode: meshv1.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY},
		RootNamespace:          defaultRootNamespace,
	}
}
