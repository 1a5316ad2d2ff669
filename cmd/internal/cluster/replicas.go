package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/status"
	"github.com/signet-mesh/signet/mesh"
)

// How the leader asks the other replicas.
const (
	// metricsPort is the port of the control plane's Service that leads to Config.Metrics.
	metricsPort = 15014
	// askTimeout bounds one answer; askUrgently and askIdly are the least times between two rounds.
	askTimeout  = time.Second
	askUrgently = time.Second
	askIdly     = 5 * time.Second
	// maxReplicas bounds how many are asked: what answers is believed to be a control plane.
	maxReplicas = 32
)

// replicas are what the proxies of all replicas run on: status.Programs. Sidecars are spread over the replicas, and each knows
// only those that are connected to it. It belongs to the writer's goroutine.
type replicas struct {
	c      *Cluster
	front  *plane.Front
	client *http.Client
	own    map[mesh.Key]plane.ProgrammedObject
	// others are the answers of the last round, which ended at asked; unasked is how many gave none.
	others  []map[mesh.Key]plane.ProgrammedObject
	asked   time.Time
	unasked int
	// said is what was logged last.
	said string
}

func newReplicas(c *Cluster, f *plane.Front) *replicas {
	return &replicas{c: c, front: f, client: &http.Client{
		// Connections are not kept: a round is a few requests in a second, and nothing is to be closed when leading ends.
		Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       askTimeout,
	}}
}

// Refresh implements status.Programs.
func (r *replicas) Refresh(ctx context.Context, urgent bool) {
	r.own = byKey(r.front.Programmed())
	pause := askIdly
	if urgent {
		pause = askUrgently
	}
	// Rounds are begun by a ticker: one that comes a little early must not miss its turn.
	if !r.asked.IsZero() && time.Since(r.asked) < pause-pause/20 {
		return
	}
	r.asked = time.Now()
	others := r.addresses()
	answers, errs := make([]map[mesh.Key]plane.ProgrammedObject, len(others)), make([]error, len(others))
	var asking sync.WaitGroup
	for i, a := range others {
		asking.Go(func() { answers[i], errs[i] = r.ask(ctx, a) })
	}
	asking.Wait()
	if ctx.Err() != nil {
		return
	}
	r.others, r.unasked = r.others[:0], 0
	for i := range others {
		if errs[i] != nil {
			r.unasked++
			continue
		}
		r.others = append(r.others, answers[i])
	}
	r.tell(errors.Join(errs...))
}

// tell logs that replicas can't be asked, when that changes.
func (r *replicas) tell(err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != r.said {
		r.c.cfg.Log.Warn("not all replicas say what their proxies run on, status leaves these out", "error", err)
	}
	r.said = said
}

// addresses are the metrics ports of the other replicas that serve.
func (r *replicas) addresses() []netip.AddrPort {
	cfg := &r.c.cfg
	mine := r.c.source.Addresses(cfg.Namespace, cfg.Instance)
	var out []netip.AddrPort
	for _, e := range r.c.source.Behind(cfg.Namespace, kube.ControlPlane+cfg.suffix(), metricsPort) {
		if e.Pod == cfg.Instance || e.Pod == "" && slices.Contains(mine, e.Address.Addr()) {
			continue
		}
		out = append(out, e.Address)
	}
	return out[:min(len(out), maxReplicas)]
}

func (r *replicas) ask(ctx context.Context, address netip.AddrPort) (map[mesh.Key]plane.ProgrammedObject, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address.String()+"/programmed", nil)
	if err != nil {
		return nil, fmt.Errorf("asking replica %s: %w", address, err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking replica %s: %w", address, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking replica %s: it answers %s", address, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, plane.MaxProgrammed+1))
	if err != nil {
		return nil, fmt.Errorf("reading what replica %s answers: %w", address, err)
	}
	if len(text) > plane.MaxProgrammed {
		return nil, fmt.Errorf("reading what replica %s answers: it exceeds %d bytes", address, plane.MaxProgrammed)
	}
	var answer plane.Programmed
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("reading what replica %s answers: %w", address, err)
	}
	for _, o := range answer.Objects {
		if o.Acked < 0 || o.Acked > o.Wanted {
			return nil, fmt.Errorf("reading what replica %s answers: %d of %d proxies run on %s %s/%s", address, o.Acked, o.Wanted, o.Kind, o.Namespace, o.Name)
		}
	}
	return byKey(answer), nil
}

func byKey(p plane.Programmed) map[mesh.Key]plane.ProgrammedObject {
	out := make(map[mesh.Key]plane.ProgrammedObject, len(p.Objects))
	for _, o := range p.Objects {
		out[o.Key()] = o
	}
	return out
}

// Programmed implements status.Programs. Of a replica that has another version of the object, older or newer, no proxy counts
// as acknowledged.
func (r *replicas) Programmed(key mesh.Key) status.Progress {
	own, ok := r.own[key]
	if !ok {
		return status.Progress{Unasked: r.unasked}
	}
	p := status.Progress{Acked: own.Acked, Wanted: own.Wanted, Unasked: r.unasked, Refusal: own.Refusal}
	for _, other := range r.others {
		o := other[key]
		p.Wanted += o.Wanted
		if o.Version == own.Version {
			p.Acked += o.Acked
		}
		if o.Refusal != "" && (p.Refusal == "" || o.Refusal < p.Refusal) {
			p.Refusal = o.Refusal
		}
	}
	return p
}
