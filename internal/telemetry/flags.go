// Package telemetry turns what happened to one request or connection into an
// access-log line and metrics. The proxy fills in one Record on every exit and
// hands it over; nothing here allocates per request once its series exist.
package telemetry

// Flags are Envoy's response flags: why the proxy itself, not the upstream,
// decided how a request ended.
type Flags uint32

const (
	NoHealthyUpstream       Flags = 1 << iota // UH
	UpstreamConnectFailure                    // UF
	UpstreamOverflow                          // UO: circuit breaker
	NoRoute                                   // NR
	UpstreamRequestTimeout                    // UT
	UpstreamConnTermination                   // UC
	UpstreamRetryLimit                        // URX
	DownstreamTermination                     // DC
	ExternalDenied                            // UAEX
	LocalReset                                // LR
	UpstreamRemoteReset                       // UR
	DownstreamProtocolError                   // DPE
	UpstreamProtocolError                     // UPE
	NoCluster                                 // NC
	StreamIdleTimeout                         // SI
	DurationTimeout                           // DT
	OverloadShed                              // OM
	DelayInjected                             // DI: a delay fault
	FaultInjected                             // FI: an abort fault
)

// names in the order Envoy prints them.
var names = []struct {
	bit  Flags
	name string
}{
	{NoHealthyUpstream, "UH"}, {UpstreamRequestTimeout, "UT"}, {LocalReset, "LR"}, {UpstreamRemoteReset, "UR"},
	{UpstreamConnectFailure, "UF"}, {UpstreamConnTermination, "UC"}, {UpstreamOverflow, "UO"}, {NoRoute, "NR"},
	{DelayInjected, "DI"}, {FaultInjected, "FI"}, {ExternalDenied, "UAEX"}, {DownstreamTermination, "DC"}, {UpstreamRetryLimit, "URX"}, {StreamIdleTimeout, "SI"},
	{DownstreamProtocolError, "DPE"}, {DurationTimeout, "DT"}, {UpstreamProtocolError, "UPE"}, {NoCluster, "NC"},
	{OverloadShed, "OM"},
}

// String is the comma-separated list, "-" for none. The usual cases (none or
// one flag) do not allocate.
func (f Flags) String() string {
	s := "-"
	if f == 0 {
		return s
	}
	for _, n := range names {
		if f&n.bit == 0 {
			continue
		}
		if s == "-" {
			s = n.name
		} else {
			s += "," + n.name
		}
	}
	return s
}
