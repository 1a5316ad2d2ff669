package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	refusedPerSecond = 10  // lines logged a second for each reason
	maxReasons       = 64  // words beyond it are counted as otherReason
	maxCause         = 512 // bytes of a cause that are logged
	otherReason      = "other"
	refusedQueue     = 128
)

// refusals counts refused connections and logs some of them.
type refusals struct {
	log   *slog.Logger
	total *prometheus.CounterVec
	queue chan refusal

	mu      sync.Mutex // guards reasons
	reasons map[string]*budget
}

// budget is what one reason may still log.
type budget struct {
	total      prometheus.Counter
	second     int64 // Unix time that the rest is of
	used       int
	suppressed uint64
}

type refusal struct {
	local, remote netip.AddrPort
	reason, cause string
	suppressed    uint64
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{
		log:   log,
		queue: make(chan refusal, refusedQueue),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "signet_connections_refused_total",
			Help: "Connections refused before they became an exchange, by reason."}, []string{"reason"}),
		reasons: map[string]*budget{},
	}
}

// Refused implements proxy.Recorder. It logs at most ten lines a second for each reason; how many more there were is said
// with the next line, or on its own a second later.
func (r *Recorder) Refused(local, remote netip.AddrPort, reason string, cause error) {
	r.refusals.add(local, remote, reason, cause, time.Now())
}

func (r *refusals) add(local, remote netip.AddrPort, reason string, cause error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reason, b := r.budget(reason)
	b.total.Inc()
	if s := now.Unix(); s != b.second {
		b.second, b.used = s, 0
	}
	if b.used >= refusedPerSecond {
		b.suppressed++
		return
	}
	line := refusal{local: local, remote: remote, reason: reason, suppressed: b.suppressed}
	if cause != nil {
		line.cause = cause.Error()
		line.cause = line.cause[:min(len(line.cause), maxCause)]
	}
	select {
	case r.queue <- line:
		b.used++
		b.suppressed = 0
	default:
		b.suppressed++
	}
}

// budget is the reason's, under the name it is counted by. r.mu is held.
func (r *refusals) budget(reason string) (string, *budget) {
	if b := r.reasons[reason]; b != nil {
		return reason, b
	}
	if len(r.reasons) >= maxReasons {
		reason = otherReason
	}
	b := r.reasons[reason]
	if b == nil {
		b = &budget{total: r.total.WithLabelValues(reason)}
		r.reasons[reason] = b
	}
	return reason, b
}

// run logs until ctx ends, then what is queued.
func (r *refusals) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case line := <-r.queue:
			r.say(line)
		case now := <-tick.C:
			r.remind(now.Unix() - 1)
		case <-ctx.Done():
			for len(r.queue) > 0 {
				r.say(<-r.queue)
			}
			r.remind(time.Now().Unix() + 1)
			return
		}
	}
}

func (r *refusals) say(l refusal) {
	r.log.Warn("connection refused", slog.String("local", l.local.String()), slog.String("remote", l.remote.String()),
		slog.String("reason", l.reason), slog.String("cause", l.cause), slog.Uint64("suppressed", l.suppressed))
}

// remind says how many were suppressed of the reasons whose last line is of that second or older.
func (r *refusals) remind(second int64) {
	more := map[string]uint64{}
	r.mu.Lock()
	for reason, b := range r.reasons {
		if b.suppressed > 0 && b.second <= second {
			more[reason], b.suppressed = b.suppressed, 0
		}
	}
	r.mu.Unlock()
	for reason, n := range more {
		r.log.Warn("more connections refused", slog.String("reason", reason), slog.Uint64("suppressed", n))
	}
}
