// Package decisionlog reports decisions by OPA's decision log API: gzipped JSON arrays of events, POSTed in chunks. What
// cannot be sent in time is dropped and counted; judging never waits for it.
//
// https://www.openpolicyagent.org/docs/management-decision-logs
package decisionlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/signet-mesh/signet/authz/rego/service"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Limits.
const (
	// MaxBuffer is the most events that a spec lets wait.
	MaxBuffer = 1 << 20
	// MaxChunk is the most bytes of one upload, gzipped (OPA's default upload_size_limit_bytes). An event that is larger alone
	// is dropped.
	MaxChunk = 32768
	// MaxEvent is the most bytes of one event as JSON, before it is gzipped.
	MaxEvent = 1 << 20
	// MaskTime is how long the mask rule may take for one event.
	MaskTime = time.Second
	// MaxMasks is the most entries of a mask.
	MaxMasks = 1000
	// UploadTime is how long one upload may take.
	UploadTime = 10 * time.Second
	// MaxRetry is about the longest time between attempts to upload a chunk.
	MaxRetry = time.Minute
	// DrainTime is how long Run goes on after its context ends.
	DrainTime = 5 * time.Second
)

// OPA's defaults for the time between uploads of chunks that are not full; of events that wait.
const (
	minDelay      = 5 * time.Minute
	maxDelay      = 10 * time.Minute
	defaultBuffer = 1000
)

// Config is what a Reporter needs.
type Config struct {
	// Spec says where to, and how often. Required.
	Spec *policy.DecisionLog
	// Name is the policy's, NAMESPACE/NAME, for the log. Required.
	Name string
	// Labels are those of every event: id, version, app and whatever else tells one proxy from another. Not changed, and not
	// to be changed.
	Labels map[string]string
	// Mask evaluates the mask rule for an event (its input in OPA's schema, {input, result, path, ...}), and answers the rule's
	// value: a list of JSON pointers (strings) and {op, path, value} objects, or nil where the rule is undefined. An error drops
	// the event: nothing is sent unmasked. It is called from Run's goroutine. Nil masks nothing beyond what is always erased.
	Mask func(ctx context.Context, event ast.Value) (any, error)
	// Log gets failures when they begin and end; never what is in an event. Required.
	Log *slog.Logger
}

// Event is one decision. Log keeps it: nothing in it may share memory with what the caller goes on to change.
type Event struct {
	// ID is the decision_id; Run makes one (a random UUID) where it is "".
	ID string
	// Path is what was asked, in OPA's form: menu/decision for the query data.menu.decision (PathOf).
	Path string
	// Query is what was asked where that is no path, "" else.
	Query string
	// Input is what was judged, nil for nothing; Result what came out, nil for undefined.
	Input, Result ast.Value
	// Secret is the payload segment of the caller's verified token, "" for none. It is not sent: wherever it is in input,
	// result or error, that is masked.
	Secret string
	// Error is why there was no result, "" if there was one.
	Error string
	// RequestedBy is who asked: the caller's SPIFFE ID or address.
	RequestedBy string
	// Time is when it was decided. Required.
	Time time.Time
	// Bundle and Revision name the bundle that decided, "" for none.
	Bundle, Revision string
	// Metrics are OPA's timers in nanoseconds, such as timer_rego_query_eval_ns; nil for none.
	Metrics map[string]any
}

// Counters count since the start.
type Counters struct {
	// Sent are events that the server took, Chunks the uploads that they went in.
	Sent, Chunks uint64
	// Dropped are events that were lost: the buffer was full, the event was too large or could not be masked or encoded, the
	// server refused it for good, or time ran out at the end.
	Dropped uint64
	// Failed are uploads that failed, each attempt.
	Failed uint64
}

// Reporter sends events while Run runs. Safe for concurrent use.
type Reporter struct {
	cfg    Config
	client *service.Client
	url    string
	delays service.Delays
	queue  queue

	sent, chunks, failed atomic.Uint64

	// Of Run's goroutine alone.
	filling *chunk
	sealed  []byte // a chunk that is on its way, nil for none
	inside  int    // events in sealed
	failing bool   // the last upload, or the last event, failed and that is in the log
}

// New checks the configuration; nothing is sent before Run. The error names the field of the spec.
func New(c Config) (*Reporter, error) {
	if c.Spec == nil || c.Log == nil || c.Name == "" {
		return nil, errors.New("making decision log: incomplete configuration")
	}
	r := &Reporter{cfg: c, filling: newChunk(MaxChunk)}
	size := c.Spec.GetBuffer()
	switch {
	case size == 0:
		size = defaultBuffer
	case size > MaxBuffer:
		return nil, fmt.Errorf("buffer: %d is more than %d", size, MaxBuffer)
	}
	r.queue.events = make(chan *Event, size)
	var err error
	if r.client, err = service.New(c.Spec.GetUrl(), c.Spec.GetCaCertificates(), false); err != nil {
		return nil, err
	}
	resource := "logs"
	if p := c.Spec.GetPartition(); p != "" {
		resource += "/" + url.PathEscape(p)
	}
	if r.url, err = r.client.URL(resource); err != nil {
		return nil, err
	}
	r.delays, err = service.DelaysOf(c.Spec.GetMinDelay(), c.Spec.GetMaxDelay(), minDelay, maxDelay)
	return r, err
}

// Log queues an event. It never waits: when the buffer is full, the oldest event is dropped for it. The event is the
// Reporter's from then on.
func (r *Reporter) Log(e *Event) { r.queue.push(e) }

// Counters says how it goes.
func (r *Reporter) Counters() Counters {
	return Counters{Sent: r.sent.Load(), Chunks: r.chunks.Load(), Dropped: r.queue.dropped.Load(), Failed: r.failed.Load()}
}

// PathOf is the path of a query in OPA's form: menu/decision for data.menu.decision, and "" for what is no plain reference
// into data.
func PathOf(query string) string {
	ref, err := ast.ParseRef(query)
	if err != nil || !ref.HasPrefix(ast.DefaultRootRef) || !ref.IsGround() {
		return ""
	}
	path, err := storage.NewPathForRef(ref)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(path.String(), "/")
}
