// Package status tells people what became of their objects: conditions on Istio's objects and ours, and Events for what is
// refused.
//
// The conditions are those of Gateway API: Accepted (the object stands by itself), ResolvedRefs (what it refers to exists) and
// Programmed (the connected proxies that need it run on it). They are the only ones that are touched: those of other
// controllers stay as they are.
//
// One replica at a time may run a Writer. It writes through the status subresource, which leaves metadata.generation alone,
// so that whoever watches generations does not see its writes as news. An object is written when its conditions differ from
// what it has, at most once in Config.Every.
package status

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/signet-mesh/signet/mesh"
)

// Object is one object of the API server as the control plane judged it.
type Object struct {
	mesh.Key
	// Resource is how the API server serves the object; the zero value means the kind's own plural in mesh.VersionOf.
	Resource   schema.GroupVersionResource
	UID        types.UID
	Generation int64
	// ResourceVersion says when somebody else has written the object, so that it is looked at again; "" if it is not known.
	ResourceVersion string
	// Problems are all that was found of it, by itself and among the others.
	Problems []mesh.Problem
	// Quarantined says that it was refused and closes what it selects.
	Quarantined bool
}

// Findings are all objects that the control plane read. Safe for concurrent use.
type Findings interface {
	// Findings returns what was found, which nobody modifies, and a channel that is closed when that was replaced.
	Findings() ([]Object, <-chan struct{})
}

// Programs knows which proxies run on what. Only the goroutine of Run calls it.
type Programs interface {
	// Refresh is called before objects are asked for, once in Config.Tick. urgent says that the status of an object may be
	// about to change; without it what is known may be some seconds old. It may take a second.
	Refresh(ctx context.Context, urgent bool)
	// Programmed is what is known of an object since the last Refresh. It is asked for each object in each Config.Tick.
	Programmed(key mesh.Key) Progress
}

// Progress is how far the proxies are with an object.
type Progress struct {
	// Wanted is how many connected proxies need it, Acked how many of them run on its present version.
	Acked, Wanted int
	// Unasked is how many replicas of the control plane did not say what their proxies run on: these are not counted.
	Unasked int
	// Refusal is what one that does not run on it said, "" if none refused it.
	Refusal string
}

// Config is what a Writer needs.
type Config struct {
	Dynamic  dynamic.Interface
	Client   kubernetes.Interface
	Findings Findings
	Programs Programs
	// Ours reports whether objects of the namespace are this revision's to write; nil: all are.
	Ours func(namespace string) bool
	Log  *slog.Logger
	// Instance is the name of this replica, for Events.
	Instance string

	// Every is the least time between two writes of one object; 0 is 5 s.
	Every time.Duration
	// Settle is how long a difference must stand before it is written, so that most objects are written once, when their
	// proxies have answered; 0 is 1 s.
	Settle time.Duration
	// Grace is how long after a change of an object nobody needs it before that is written: proxies ask for what they use
	// only when they learn of it; 0 is 2 s.
	Grace time.Duration
	// Tick is how often differences are looked for; 0 is 1 s.
	Tick time.Duration
	// PerTick is how many requests are made to the API server in a Tick at most; 0 is 20. A write is two.
	PerTick int
}

// Writer writes conditions and Events.
type Writer struct {
	cfg     Config
	entries map[mesh.Key]*entry // owned by Run
	// restless says that an object's status may be about to change. Owned by Run.
	restless bool
}

// New returns a Writer that does nothing yet.
func New(cfg Config) (*Writer, error) {
	if cfg.Dynamic == nil || cfg.Client == nil || cfg.Findings == nil || cfg.Programs == nil || cfg.Log == nil {
		return nil, errors.New("building status writer: Dynamic, Client, Findings, Programs and Log must be set")
	}
	if cfg.Ours == nil {
		cfg.Ours = func(string) bool { return true }
	}
	if cfg.Instance == "" {
		cfg.Instance = fieldManager
	}
	for _, d := range []struct {
		at      *time.Duration
		without time.Duration
	}{{&cfg.Every, 5 * time.Second}, {&cfg.Settle, time.Second}, {&cfg.Grace, 2 * time.Second}, {&cfg.Tick, time.Second}} {
		if *d.at <= 0 {
			*d.at = d.without
		}
	}
	if cfg.PerTick <= 0 {
		cfg.PerTick = 20
	}
	return &Writer{cfg: cfg}, nil
}

// Run writes until ctx ends: as long as this replica leads. It may run again after it ended, and then looks at every object
// anew. What the API server refuses is logged and tried again; it is no reason to end.
func (w *Writer) Run(ctx context.Context) error {
	w.entries, w.restless = map[mesh.Key]*entry{}, true
	tick := time.NewTicker(w.cfg.Tick)
	defer tick.Stop()
	var changed <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if changed == nil || closed(changed) {
			var all []Object
			all, changed = w.cfg.Findings.Findings()
			w.note(all)
			w.restless = true
		}
		w.cfg.Programs.Refresh(ctx, w.restless)
		w.pass(ctx)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
