package telemetry

import (
	"net/netip"
	"strconv"
	"unicode/utf8"

	"github.com/signet-mesh/signet/proxy"
)

// appendJSON is a line with the keys of Istio's default JSON format (accessLogEncoding JSON) and the member "workload"; a
// matched AUDIT rule is the member "audit", a caller's proven identity "source_principal", who refused "denied_by", policies
// without effect "dry_run_denied" and "dry_run_allowed". What is absent is null, as Envoy has it.
func appendJSON(b []byte, workload string, r *proxy.Record) []byte {
	details, termination := r.Detail, ""
	if r.TCP {
		details, termination = "", r.Detail
	}
	b = appendString(append(b, `{"workload":`...), workload, maxValue)
	b = r.Start.UTC().AppendFormat(append(b, `,"start_time":"`...), startTime)
	b = append(b, '"')
	b = appendMember(b, "method", r.Method, maxValue)
	b = append(b, `,"path":`...)
	if r.Path == "" && r.Query == "" {
		b = append(b, "null"...)
	} else {
		b = appendRunes(append(b, '"'), r.Path, maxPath)
		b = append(appendRunes(b, withoutTokens(r.Query), maxPath), '"')
	}
	b = append(b, `,"protocol":`...)
	if r.TCP {
		b = append(b, "null"...)
	} else {
		b = append(appendProtocol(append(b, '"'), r), '"')
	}
	b = strconv.AppendInt(append(b, `,"response_code":`...), int64(r.Status), 10)
	b = appendMember(b, "response_flags", flagOf(r), maxValue)
	b = appendMember(b, "response_code_details", details, maxValue)
	b = appendMember(b, "connection_termination_details", termination, maxValue)
	b = appendMember(b, "upstream_transport_failure_reason", r.TransportFailure, maxPath)
	b = strconv.AppendUint(append(b, `,"bytes_received":`...), r.BytesReceived, 10)
	b = strconv.AppendUint(append(b, `,"bytes_sent":`...), r.BytesSent, 10)
	b = strconv.AppendInt(append(b, `,"duration":`...), milliseconds(r.Duration), 10)
	b = append(b, `,"upstream_service_time":`...)
	if r.UpstreamTime > 0 {
		b = append(strconv.AppendInt(append(b, '"'), milliseconds(r.UpstreamTime), 10), '"')
	} else {
		b = append(b, "null"...)
	}
	b = appendMember(b, "x_forwarded_for", r.ForwardedFor, maxValue)
	b = appendMember(b, "user_agent", r.UserAgent, maxValue)
	b = appendMember(b, "request_id", r.RequestID, maxValue)
	b = appendMember(b, "authority", r.Authority, maxValue)
	b = appendAddressMember(b, "upstream_host", r.UpstreamHost)
	b = appendMember(b, "upstream_cluster", r.UpstreamCluster, maxValue)
	b = appendAddressMember(b, "upstream_local_address", r.UpstreamLocal)
	b = appendAddressMember(b, "downstream_local_address", r.DownstreamLocal)
	b = appendAddressMember(b, "downstream_remote_address", r.DownstreamRemote)
	b = appendMember(b, "requested_server_name", r.SNI, maxValue)
	b = appendMember(b, "route_name", r.RouteName, maxValue)
	if r.Peer.Proven() {
		b = appendMember(b, "source_principal", r.Peer.ID.String(), maxPath)
	}
	if r.DeniedBy != "" {
		b = appendMember(b, "denied_by", r.DeniedBy, maxPath)
	}
	if len(r.Shadows) > 0 {
		b = appendShadows(b, r.Shadows)
	}
	if r.Audited != "" {
		b = appendMember(b, "audit", r.Audited, maxValue)
	}
	return append(b, '}', '\n')
}

// appendShadows appends the policies in dry run that would have refused, and those that would not.
func appendShadows(b []byte, shadows []proxy.Shadow) []byte {
	for _, denied := range [...]bool{true, false} {
		key, n := `,"dry_run_allowed":[`, 0
		if denied {
			key = `,"dry_run_denied":[`
		}
		for _, s := range shadows {
			if s.Denied != denied {
				continue
			}
			if n++; n == 1 {
				b = append(b, key...)
			} else {
				b = append(b, ',')
			}
			b = appendString(b, s.By, maxPath)
		}
		if n > 0 {
			b = append(b, ']')
		}
	}
	return b
}

func flagOf(r *proxy.Record) string {
	if r.Flag == "" {
		return "-"
	}
	return r.Flag
}

// appendMember appends a further member; an empty value is null.
func appendMember(b []byte, key, v string, limit int) []byte {
	b = append(append(append(b, ',', '"'), key...), '"', ':')
	if v == "" {
		return append(b, "null"...)
	}
	return appendString(b, v, limit)
}

func appendAddressMember(b []byte, key string, a netip.AddrPort) []byte {
	b = append(append(append(b, ',', '"'), key...), '"', ':')
	if !a.IsValid() {
		return append(b, "null"...)
	}
	return append(a.AppendTo(append(b, '"')), '"')
}

func appendString(b []byte, v string, limit int) []byte {
	return append(appendRunes(append(b, '"'), v, limit), '"')
}

// appendRunes appends at most limit bytes of v, escaped for a JSON string (RFC 8259 section 7). Controls, DEL and the
// line separators of Unicode are escaped too; what is not UTF-8 becomes U+FFFD.
func appendRunes(b []byte, v string, limit int) []byte {
	cut := len(v) > limit
	v = v[:min(len(v), limit)]
	for {
		n := 0
		for n < len(v) && v[n] >= ' ' && v[n] < 0x7f && v[n] != '"' && v[n] != '\\' {
			n++
		}
		b = append(b, v[:n]...)
		if n == len(v) {
			break
		}
		c, size := utf8.DecodeRuneInString(v[n:])
		v = v[n+size:]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029:
			b = append(b, '\\', 'u', hex[c>>12&15], hex[c>>8&15], hex[c>>4&15], hex[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	if cut {
		b = append(b, "..."...)
	}
	return b
}
