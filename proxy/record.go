package proxy

import (
	"net/netip"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// Party is what metrics say of one end of an exchange. Immutable and shared: it comes from the mesh by identity and
// address, never from what a client sends. The zero value is rendered as Istio's "unknown".
type Party struct {
	Workload, Namespace, Principal, App, Version string
	CanonicalService, CanonicalRevision          string
}

// Destination is the service an exchange was for, as Istio names it in metrics. Immutable and shared.
type Destination struct {
	// Service is the FQDN (destination_service), ServiceName and ServiceNamespace its parts. For unknown hosts Service is
	// PassthroughCluster or BlackHoleCluster, never the name asked for.
	Service, ServiceName, ServiceNamespace string
}

// Side is Istio's reporter label.
type Side uint8

// The two reporters.
const (
	SourceSide      Side = iota // the outbound corridor: reporter="source"
	DestinationSide             // the inbound corridor: reporter="destination"
)

// Security is Istio's connection_security_policy.
type Security uint8

// What is known of a connection's protection. Istio's source reporter says unknown.
const (
	SecurityUnknown Security = iota
	SecurityNone
	SecurityMTLS
)

// Record is one finished exchange, or one finished TCP connection. The corridor fills one and hands it to a Recorder
// exactly once; the recorder keeps nothing of it (strings are borrowed), save the pointers to shared values.
type Record struct {
	Side Side
	TCP  bool
	// Start is when the first byte of the request (or the connection) arrived.
	Start    time.Time
	Duration time.Duration
	// UpstreamTime is from the request's last byte sent to the response's first byte; 0 if there was no response.
	UpstreamTime time.Duration

	Source, Destination *Party       // never nil
	Service             *Destination // never nil
	Security            Security

	Method, Authority, Path, Query string // Path canonical where it is known, else as received
	Minor                          int    // HTTP/1.x
	Status                         int    // 0: none was sent
	Flag                           string // Envoy's letters, "-" for none
	Detail                         string
	RouteName                      string
	UserAgent, RequestID           string
	ForwardedFor                   string
	BytesReceived, BytesSent       uint64 // body bytes; for TCP all bytes
	Peer                           identity.Peer
	SNI                            string
	UpstreamCluster                string // outbound|80||host or inbound|80||
	UpstreamHost                   netip.AddrPort
	UpstreamLocal                  netip.AddrPort
	DownstreamLocal                netip.AddrPort
	DownstreamRemote               netip.AddrPort
	// TransportFailure is why the upstream connection failed, "" if it did not.
	TransportFailure string
	// Audited is the id of an AUDIT rule that matched, "" for none.
	Audited string
	// DeniedBy names who refused the exchange, KIND/NAMESPACE/NAME[RULE]; "" if nobody did. Not borrowed: it lives as long
	// as the configuration, or longer.
	DeniedBy string
	// Shadows are the outcomes of policies in dry run and of limits in shadow mode. The slice is borrowed, its strings are
	// not.
	Shadows []Shadow
}

// Shadow is what one policy without effect would have decided.
type Shadow struct {
	// By is KIND/NAMESPACE/NAME[RULE].
	By     string
	Denied bool
}

// Recorder takes finished exchanges. Safe for concurrent use; must not block and must not keep the record.
type Recorder interface {
	Record(*Record)
	// Opened and Closed count TCP connections of one pair of parties (istio_tcp_connections_opened_total, ..._closed_total).
	Opened(*Record)
	// Refused counts a connection that was refused before it became an exchange (a handshake that failed, plaintext under
	// STRICT), and logs it. Reason is one of a fixed set of words.
	Refused(local, remote netip.AddrPort, reason string, cause error)
}
