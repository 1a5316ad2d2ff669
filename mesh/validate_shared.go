package mesh

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/identity"
)

// port refuses what is no port number.
func (j *judge) port(field string, n uint32) {
	if n < 1 || n > 65535 {
		j.refuse(field, "%d is no port: want 1 to 65535", n)
	}
}

// exportTo judges visibility: *, . or names of namespaces.
func (j *judge) exportTo(values []string) {
	for i, v := range values {
		field := fmt.Sprintf("exportTo[%d]", i)
		switch {
		case v == "." || v == "~":
		case v == "*":
			if len(values) > 1 {
				j.refuse(field, "%q stands alone or not at all", v)
			}
		default:
			if err := checkLabel(v); err != nil {
				j.refuse(field, "want \"*\", \".\" or a namespace: %v", err)
			}
		}
	}
}

// selectorLabels judges what selects workloads.
func (j *judge) selectorLabels(field string, labels map[string]string) {
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		at := fmt.Sprintf("%s[%s]", field, k)
		if k == "" || strings.Contains(k, "*") {
			j.refuse(at, "%q is no label name", clip(k))
		}
		if strings.Contains(labels[k], "*") {
			j.refuse(at, "%q: a label is selected by its whole value, wildcards match nothing", clip(labels[k]))
		}
	}
}

// pattern judges Istio's string match: exact, abc*, *abc or *. A * anywhere else is one that Istio takes and never
// matches.
func (j *judge) pattern(field, v string) {
	if v == "" {
		j.refuse(field, "must not be empty")
		return
	}
	middle := v
	if v != "*" {
		middle = strings.TrimPrefix(v, "*")
		if middle == v {
			middle = strings.TrimSuffix(v, "*")
		}
	} else {
		middle = ""
	}
	if strings.Contains(middle, "*") {
		j.refuse(field, "%q: a * is only honoured as the first or as the last character", clip(v))
	}
	if len(v) > 4096 {
		j.refuse(field, "has %d bytes, more than 4096", len(v))
	}
}

// address judges one IP address or, where blocks are allowed, CIDR.
func (j *judge) address(field, v string, blocks bool) {
	if _, err := netip.ParseAddr(v); err == nil {
		return
	}
	if blocks {
		if _, err := netip.ParsePrefix(v); err == nil {
			return
		}
		j.refuse(field, "%q is no IP address or CIDR block", clip(v))
		return
	}
	j.refuse(field, "%q is no IP address", clip(v))
}

// subjectAltNames judges what is accepted as the identity of a server: SPIFFE IDs.
func (j *judge) subjectAltNames(field string, names []string) {
	for i, n := range names {
		at := fmt.Sprintf("%s[%d]", field, i)
		if _, err := identity.Parse(n); err != nil {
			j.refuse(at, "%q would never match: a server proves itself by a SPIFFE ID such as spiffe://cluster.local/ns/default/sa/web", clip(n))
		}
	}
}

// duration refuses what is too short to mean anything; 0 is allowed where it switches something off.
func (j *judge) duration(field string, d *durationpb.Duration, zero bool) {
	if d == nil || zero && d.AsDuration() == 0 {
		return
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < 1e6 {
		j.refuse(field, "want at least 1ms, found %s", d.AsDuration())
	}
}

// portProtocol is what a declared protocol is carried as.
type portProtocol struct {
	declared string // upper case
	class    Protocol
	known    bool
	// reduced is true when it is carried as less than it is (HTTP/2 as TCP).
	reduced bool
}

func readProtocol(s string) portProtocol {
	p := portProtocol{declared: strings.ToUpper(s), known: true}
	switch p.declared {
	case "HTTP", "HTTP_PROXY":
		p.class = HTTP
	case "HTTP2", "GRPC", "GRPC-WEB", "GRPC_WEB":
		p.reduced = true
	case "TCP", "TLS", "HTTPS", "MONGO", "REDIS", "MYSQL":
	default:
		p.known = false
	}
	return p
}

// protocol judges the protocol of a port.
func (j *judge) protocol(field, s string, proxy bool) {
	p := readProtocol(s)
	switch {
	case s == "":
		j.warn(field, "is not set: carried as TCP, since protocols are not guessed here")
	case p.declared == "HTTP_PROXY" && !proxy:
		j.refuse(field, "HTTP_PROXY is only honoured on an egress listener")
	case p.declared == "UDP":
		j.refuse(field, "UDP is not carried")
	case !p.known:
		j.refuse(field, "unknown protocol %q: want HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO, REDIS or MYSQL", clip(s))
	case p.reduced:
		j.warn(field, "%s is carried as TCP for now: no routing, retries or policies by request", p.declared)
	}
}
