package telemetry

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

// Longest values in the access log, in bytes before escaping; more is cut and ends in "...".
const (
	maxPath  = 2048
	maxValue = 256
)

const startTime = "2006-01-02T15:04:05.000Z" // Envoy's %START_TIME% default

// appendText is a line of Istio's default text format (MeshConfig.accessLogFormat), after the workload's name. A matched
// AUDIT rule is one more word at its end.
func appendText(b []byte, workload string, r *proxy.Record) []byte {
	details, termination := r.Detail, ""
	if r.TCP {
		details, termination = "", r.Detail
	}
	b = append(append(b, workload...), " ["...)
	b = append(r.Start.UTC().AppendFormat(b, startTime), `] "`...)
	b = append(appendQuoted(b, r.Method, maxValue), ' ')
	if r.Path == "" && r.Query == "" {
		b = append(b, '-')
	} else {
		b = appendEscaped(b, r.Path, maxPath, '"')
		b = appendEscaped(b, withoutTokens(r.Query), maxPath, '"')
	}
	b = append(b, ' ')
	b = append(appendProtocol(b, r), `" `...)
	b = append(strconv.AppendInt(b, int64(r.Status), 10), ' ')
	b = append(appendWord(b, r.Flag), ' ')
	b = append(appendWord(b, details), ' ')
	b = append(appendWord(b, termination), ` "`...)
	b = append(appendQuoted(b, r.TransportFailure, maxPath), `" `...)
	b = append(strconv.AppendUint(b, r.BytesReceived, 10), ' ')
	b = append(strconv.AppendUint(b, r.BytesSent, 10), ' ')
	b = append(strconv.AppendInt(b, milliseconds(r.Duration), 10), ' ', '"')
	if r.UpstreamTime > 0 {
		b = strconv.AppendInt(b, milliseconds(r.UpstreamTime), 10)
	} else {
		b = append(b, '-')
	}
	b = append(b, `" "`...)
	for _, v := range [...]string{r.ForwardedFor, r.UserAgent, r.RequestID, r.Authority} {
		b = append(appendQuoted(b, v, maxValue), `" "`...)
	}
	b = append(appendAddress(b, r.UpstreamHost), `" `...)
	b = append(appendWord(b, r.UpstreamCluster), ' ')
	for _, a := range [...]netip.AddrPort{r.UpstreamLocal, r.DownstreamLocal, r.DownstreamRemote} {
		b = append(appendAddress(b, a), ' ')
	}
	b = append(appendWord(b, r.SNI), ' ')
	b = appendWord(b, r.RouteName)
	for _, s := range r.Shadows {
		if s.Denied {
			b = appendWord(append(b, " dry_run_denied="...), s.By)
		}
	}
	if r.Audited != "" {
		b = appendWord(append(b, " audit="...), r.Audited)
	}
	return append(b, '\n')
}

func milliseconds(d time.Duration) int64 { return int64(max(d, 0) / time.Millisecond) }

func appendProtocol(b []byte, r *proxy.Record) []byte {
	if r.TCP {
		return append(b, '-')
	}
	return strconv.AppendInt(append(b, "HTTP/1."...), int64(r.Minor), 10)
}

func appendAddress(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return a.AppendTo(b)
}

// appendWord appends a value that stands between spaces.
func appendWord(b []byte, v string) []byte {
	if v == "" {
		return append(b, '-')
	}
	return appendEscaped(b, v, maxValue, ' ')
}

// appendQuoted appends a value that stands between quotes.
func appendQuoted(b []byte, v string, limit int) []byte {
	if v == "" {
		return append(b, '-')
	}
	return appendEscaped(b, v, limit, '"')
}

// appendEscaped appends at most limit bytes of v so that they can end neither the value, which stop would, nor the line,
// nor steer a terminal: quotes and backslashes get a backslash, other bytes that are not printable ASCII become \xNN. In
// a word a space becomes an underscore.
func appendEscaped(b []byte, v string, limit int, stop byte) []byte {
	cut := len(v) > limit
	v = v[:min(len(v), limit)]
	for {
		n := 0
		for n < len(v) && v[n] > ' ' && v[n] < 0x7f && v[n] != '"' && v[n] != '\\' {
			n++
		}
		b = append(b, v[:n]...)
		if n == len(v) {
			break
		}
		switch c := v[n]; {
		case c == ' ' && stop == ' ':
			b = append(b, '_')
		case c == ' ':
			b = append(b, ' ')
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		}
		v = v[n+1:]
	}
	if cut {
		b = append(b, "..."...)
	}
	return b
}

const hex = "0123456789abcdef"
