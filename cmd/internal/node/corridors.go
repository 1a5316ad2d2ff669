package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/inbound"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/outbound"
	"github.com/signet-mesh/signet/proxy/telemetry"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// errStopped says that the sidecar ends.
var errStopped = errors.New("the sidecar ends")

// retryOpen is how long an address that is taken is left alone.
const retryOpen = time.Second

// corridors owns the listeners of a sidecar: apply makes them follow a view, all or nothing.
type corridors struct {
	n *Node

	// applying is held while a configuration is put in force, mu only while the listeners change.
	applying sync.Mutex
	turn     uint64 // counts what apply was given; guarded by applying

	mu  sync.Mutex // guards what follows
	in  map[netip.AddrPort]*running[*inbound.Listener]
	out map[netip.AddrPort]*running[*outbound.Listener]
	// inConfig is what each of in was last given.
	inConfig  map[netip.AddrPort]*inbound.Config
	lingering map[netip.AddrPort]*lingerer
	metrics   *running[*http.Server]
	shown     *shown
	running   *compile.Workload // what runs
	notify    chan struct{}     // closed by the next apply
	stopped   bool
	said      string         // the last error of run, which is logged once
	warned    []string       // the warnings of the configuration that runs
	inFlight  sync.WaitGroup // every listener's Run

	// A pod's:
	captor  captor
	serving sync.WaitGroup           // its inbound listeners' Run, which are among inFlight
	served  bool                     // they ended, and don't come back
	waiting atomic.Int64             // the calls that wait for the control plane
	uses    map[string]*mesh.LastUse // where the use of names is noted, of what runs; guarded by mu
}

// shown is what Status says of the configuration in force.
type shown struct {
	inbound    []string
	outbound   string
	metrics    string
	generation string
}

func newCorridors(n *Node) *corridors {
	return &corridors{n: n, in: map[netip.AddrPort]*running[*inbound.Listener]{},
		out: map[netip.AddrPort]*running[*outbound.Listener]{}, inConfig: map[netip.AddrPort]*inbound.Config{},
		lingering: map[netip.AddrPort]*lingerer{}, notify: make(chan struct{}), captor: newCaptor(n.cfg.Pod)}
}

// apply compiles a view and runs on it. On an error nothing has changed. New sockets are opened before anything is swapped,
// so that an address that is taken refuses the whole view; such a view is tried again until it can be run or the next one
// comes.
func (c *corridors) apply(v *mesh.View) error {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.turn++
	if err := c.run(v); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

// run is apply. applying is held.
func (c *corridors) run(v *mesh.View) (err error) {
	parts := c.n.parts
	parts.begin()
	defer func() {
		if err != nil {
			parts.abort()
		}
	}()
	w, err := c.compile(v)
	if err != nil {
		return err
	}
	store, err := parts.store(v, c.n.namespace+"/"+c.n.workload)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || c.served {
		return errStopped
	}
	opened, err := c.open(w)
	if err != nil {
		turn := c.turn
		time.AfterFunc(retryOpen, func() { c.again(v, turn) })
		return fmt.Errorf("workload %s/%s: %w", w.Self.Namespace, w.Self.Name, err)
	}
	c.said = ""
	clusters := c.n.upstreams.Update(w.Clusters)
	parts.clusters.Store(&clusters)
	parts.registry.SetStore(store)
	parts.commit()
	if w.Capture != nil {
		c.swapCaptured(w, clusters, opened)
	} else {
		c.swapInbound(w, clusters, opened)
		c.swapOutbound(w, clusters, opened)
		c.judgeLingering(w)
	}
	if ln := opened[c.metricsAddr(w)]; ln != nil {
		c.startMetrics(ln, c.metricsAddr(w))
	}
	c.n.recorder.SetAccessLog(accessLog(w.Settings))
	c.retain(w, clusters)
	c.show(w)
	c.warn(w.Warnings)
	close(c.notify)
	c.notify = make(chan struct{})
	return nil
}

// compile makes what a view asks for. Whether the mesh knows this workload as a pod must be how it was started: the one without
// the other would listen where nothing arrives, or nowhere.
func (c *corridors) compile(v *mesh.View) (*compile.Workload, error) {
	w, err := compile.Compile(v, c.n.parts)
	if err == nil && (w.Capture != nil) != (c.n.cfg.Pod != nil) {
		return nil, fmt.Errorf("workload %s/%s: the control plane takes it for a pod: %t; this sidecar was started in one: %t",
			w.Self.Namespace, w.Self.Name, w.Capture != nil, c.n.cfg.Pod != nil)
	}
	return w, err
}

// again runs a configuration whose addresses were taken, unless another has come since.
func (c *corridors) again(v *mesh.View, turn uint64) {
	c.applying.Lock()
	defer c.applying.Unlock()
	if c.turn != turn {
		return
	}
	if err := c.run(v); err == nil {
		c.n.cfg.Log.Info("configuration runs now")
	} else if errors.Is(err, errStopped) {
		return
	} else if err.Error() != c.said {
		c.said = err.Error()
		c.n.cfg.Log.Error("configuration can't be run yet", "error", err)
	}
}

func accessLog(s mesh.Settings) telemetry.AccessLog {
	switch {
	case !s.AccessLog:
		return telemetry.LogOff
	case s.AccessLogJSON:
		return telemetry.LogJSON
	}
	return telemetry.LogText
}

func (c *corridors) metricsAddr(w *compile.Workload) netip.AddrPort {
	return netip.AddrPortFrom(w.Self.Address, MetricsPort)
}

func (c *corridors) swapInbound(w *compile.Workload, clusters map[string]*upstream.Cluster, opened map[netip.AddrPort]net.Listener) {
	keep := map[netip.AddrPort]bool{}
	for i := range w.Inbound {
		p := &w.Inbound[i]
		keep[p.Bind] = true
		conf := inboundConfig(w, p, clusters)
		c.inConfig[p.Bind] = conf
		if r := c.in[p.Bind]; r != nil {
			r.value.Swap(conf)
			continue
		}
		l := inbound.New(opened[p.Bind], c.n.rotator, c.n.recorder, conf)
		c.in[p.Bind] = &running[*inbound.Listener]{value: l, addr: p.Bind.String(), ln: opened[p.Bind], stop: c.start(l.Run)}
	}
	needed := map[netip.AddrPort]bool{}
	for addr := range opened {
		needed[addr] = true
	}
	c.pruneInbound(keep, needed)
}

func (c *corridors) swapOutbound(w *compile.Workload, clusters map[string]*upstream.Cluster, opened map[netip.AddrPort]net.Listener) {
	keep := map[netip.AddrPort]bool{}
	for i := range w.Outbound {
		o := &w.Outbound[i]
		keep[o.Bind] = true
		conf := c.outboundConfig(w, o, clusters)
		if r := c.out[o.Bind]; r != nil {
			r.value.Swap(conf)
			continue
		}
		l := outbound.New(opened[o.Bind], c.n.recorder, conf)
		c.out[o.Bind] = &running[*outbound.Listener]{value: l, addr: o.Bind.String(), ln: opened[o.Bind], stop: c.start(l.Run)}
	}
	prune(c.out, keep)
}

func inboundConfig(w *compile.Workload, p *compile.Inbound, clusters map[string]*upstream.Cluster) *inbound.Config {
	protocol := mesh.TCP
	switch {
	case p.Detect:
		protocol = mesh.Detect
	case p.HTTP:
		protocol = mesh.HTTP
	}
	mode := inbound.Strict
	switch p.Mode {
	case compile.Permissive:
		mode = inbound.Permissive
	case compile.Disable:
		mode = inbound.Disable
	}
	return &inbound.Config{
		Bind: p.Bind, Protocol: protocol, Mode: mode, Cluster: clusters[p.Cluster],
		Judge: judge.New(w.Settings, w.Program, w.Tokens), Limits: p.Limits, ID: w.Self.ID, Self: w.Party, Service: p.Service,
		Source: w.Parties.Source, Detection: w.Settings.ProtocolDetectionTimeout,
	}
}

func (c *corridors) outboundConfig(w *compile.Workload, o *compile.Outbound, clusters map[string]*upstream.Cluster) *outbound.Config {
	kind := outbound.HTTPProxy
	switch o.Kind {
	case compile.HTTP:
		kind = outbound.HTTP
	case compile.TCP:
		kind = outbound.TCP
	}
	reserved := w.Reserved
	if control, err := netip.ParseAddrPort(c.n.cfg.Control); err == nil {
		reserved = reserved.With(control)
	}
	return &outbound.Config{
		Kind: kind, Table: o.Table, DefaultPort: o.DefaultPort(), Destinations: o.Destinations, Service: o.Service,
		Clusters: clusters, AllowAny: w.AllowAny, Forbids: reserved.Forbids, Dialer: c.n.upstreams,
		ConnectTimeout: w.Settings.ConnectTimeout, Judge: judge.New(w.Settings, nil, nil), Limits: w.RouteLimits, ID: w.Self.ID, Self: w.Party, Address: w.Self.Address,
	}
}

// retain lets the recorder forget the series of what the mesh no longer has.
func (c *corridors) retain(w *compile.Workload, clusters map[string]*upstream.Cluster) {
	services := make([]*proxy.Destination, 0, len(clusters))
	for _, cl := range clusters {
		services = append(services, cl.Destination())
	}
	for i := range w.Inbound {
		services = append(services, w.Inbound[i].Service)
	}
	if w.Capture != nil {
		services = append(services, w.Capture.Rest.Service)
	}
	c.n.recorder.Retain(w.Parties.All(), services)
}

func (c *corridors) startMetrics(ln net.Listener, addr netip.AddrPort) {
	if c.metrics != nil {
		c.metrics.end()
	}
	mux := http.NewServeMux()
	mux.Handle("GET /stats/prometheus", c.n.recorder.Handler())
	mux.HandleFunc("GET /healthz/ready", func(rw http.ResponseWriter, _ *http.Request) {
		if _, ok := c.n.Status(); !ok {
			http.Error(rw, "not ready", http.StatusServiceUnavailable)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := c.start(func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		if err := srv.Serve(ln); err != http.ErrServerClosed && ctx.Err() == nil {
			return err
		}
		return nil
	})
	c.metrics = &running[*http.Server]{value: srv, addr: addr.String(), ln: ln, stop: stop}
}

// warn logs what the configuration before did not warn of.
func (c *corridors) warn(warnings []string) {
	for _, w := range warnings {
		if !slices.Contains(c.warned, w) {
			c.n.cfg.Log.Warn("configuration refers to what is not there", "detail", w)
		}
	}
	c.warned = warnings
}

func (c *corridors) show(w *compile.Workload) {
	s := &shown{metrics: c.metricsAddr(w).String(), generation: fmt.Sprintf("%p", w)}
	for i := range w.Inbound {
		s.inbound = append(s.inbound, w.Inbound[i].Bind.String())
	}
	slices.Sort(s.inbound)
	for i := range w.Outbound {
		if w.Outbound[i].Kind != compile.HTTP && w.Outbound[i].Kind != compile.TCP && s.outbound == "" {
			s.outbound = w.Outbound[i].Bind.String()
		}
	}
	c.shown, c.running = s, w
}

// workload is what runs, nil before there is anything.
func (c *corridors) workload() *compile.Workload {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

// warnings say what of the configuration dangles.
func (c *corridors) warnings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.warned...)
}

func (c *corridors) current() *shown {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown
}

func (c *corridors) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notify
}

// list names the open listeners, for the admin page.
func (c *corridors) list() map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string][]string{"inbound": {}, "outbound": {}}
	for _, r := range c.in {
		out["inbound"] = append(out["inbound"], r.addr)
	}
	for _, r := range c.out {
		out["outbound"] = append(out["outbound"], r.addr)
	}
	slices.Sort(out["inbound"])
	slices.Sort(out["outbound"])
	return out
}

// stop ends every listener and waits until what is in flight is done.
func (c *corridors) stop() {
	c.stopServing()
	c.mu.Lock()
	c.stopped = true
	prune(c.in, nil)
	prune(c.out, nil)
	for addr := range c.lingering {
		c.endLingering(addr)
	}
	if c.metrics != nil {
		c.metrics.end()
	}
	c.mu.Unlock()
	c.inFlight.Wait()
}
