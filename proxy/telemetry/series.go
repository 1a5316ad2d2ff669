package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

// bounds are the upper bounds of the histograms' buckets, Envoy's defaults: milliseconds, or bytes.
var bounds = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000,
	1800000, 3600000}

// identity of a series: everything its labels are made of, by value.
type seriesKey struct {
	source, destination proxy.Party
	service             proxy.Destination
	side                proxy.Side
	security            proxy.Security
	tcp                 bool
	status              int
	flag                string
	deniedBy            string
}

// newSeriesKey normalises what a record says into what labels show. Principals are shown only where they were proven: not
// on plaintext.
func newSeriesKey(rec *proxy.Record, status int, flag string) seriesKey {
	k := seriesKey{source: *rec.Source, destination: *rec.Destination, service: *rec.Service, side: rec.Side,
		security: rec.Security, tcp: rec.TCP, status: status, flag: flag, deniedBy: rec.DeniedBy}
	if rec.Security == proxy.SecurityNone || (rec.Side == proxy.DestinationSide && rec.Security != proxy.SecurityMTLS) {
		k.source.Principal, k.destination.Principal = "", ""
	}
	if k.side == proxy.SourceSide {
		k.security = proxy.SecurityUnknown
	}
	return k
}

// series counts the exchanges of one set of labels.
type series struct {
	key seriesKey

	// HTTP
	requests                          atomic.Uint64
	duration, requestSize, answerSize histogram
	// TCP
	opened, ended, sent, received atomic.Uint64
}

func (s *series) request(rec *proxy.Record) {
	s.requests.Add(1)
	us := uint64(max(rec.Duration, 0) / time.Microsecond)
	s.duration.observe(float64(us)/1000, us)
	s.requestSize.observe(float64(rec.BytesReceived), rec.BytesReceived)
	s.answerSize.observe(float64(rec.BytesSent), rec.BytesSent)
}

func (s *series) closed(rec *proxy.Record) {
	s.ended.Add(1)
	s.sent.Add(rec.BytesSent)
	s.received.Add(rec.BytesReceived)
}

// histogram counts observations in the buckets of bounds; the last bucket has no bound.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	sum     atomic.Uint64 // microseconds or bytes
}

func (h *histogram) observe(v float64, sum uint64) {
	i := 0
	for i < len(bounds) && v > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(sum)
}
