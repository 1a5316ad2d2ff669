package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy/admin"
	"github.com/signet-mesh/signet/proxy/capture"
	"github.com/signet-mesh/signet/proxy/dns"
)

// answerTime is how long an answer at one of a pod's ports may take, after the request. Probes and scrapes, which have times of
// their own, have that long to be written.
const answerTime = 5 * time.Second

// podlife is what a sidecar in a pod has beside the corridors: the ports of kubelet, Prometheus and the person, and the DNS server.
type podlife struct {
	n        *Node
	draining atomic.Bool
	// quit is closed when a program says that it is done; once does so.
	quit     chan struct{}
	once     sync.Once
	applying sync.Mutex   // held while a view is put in force
	assigner dns.Assigner // guarded by applying
	dns      *dns.Server  // nil without Pod.DNS
}

func newPodlife(n *Node) *podlife {
	p := &podlife{n: n, quit: make(chan struct{})}
	pod := n.cfg.Pod
	ports := &pod.Ports
	if *ports == (Ports{}) {
		*ports = Ports{Admin: capture.AdminPort, Metrics: capture.MetricsPort, Ready: capture.ReadyPort, DNS: capture.DNSPort}
	}
	if pod.DNS {
		port := strconv.Itoa(int(ports.DNS))
		cfg := dns.Config{Listen: []string{"127.0.0.1:" + port, "[::1]:" + port}, Resolvers: pod.Resolvers, ClusterDomain: pod.ClusterDomain, Log: n.cfg.Log}
		if !pod.Full {
			cfg.Demand, cfg.Used = p.demand, p.use
		}
		p.dns = dns.New(cfg)
	}
	return p
}

// use notes that a program resolves a host that is known.
func (p *podlife) use(name string) { p.n.corridors.answered(name) }

// demand asks for a host that a program wants to resolve. When it returns the DNS server has what the corridors have.
func (p *podlife) demand(ctx context.Context, name string) error {
	err := p.n.demand(ctx, name)
	p.applying.Lock()
	defer p.applying.Unlock()
	return err
}

// issuer is the CA client of a pod: it proves itself with its service account's token.
func (p *Pod) issuer(control string) (*caclient.Client, error) {
	return caclient.New(caclient.Options{Addr: control, Bearer: caclient.FileToken(p.TokenPath), Roots: caclient.FileRoots(p.RootsPath),
		TrustDomain: p.TrustDomain, Workload: p.Namespace + "/" + p.Name})
}

// rootsEvery is how often the mounted bundle is looked at while the control plane can't be reached.
const rootsEvery = 10 * time.Second

// followRoots trusts what the mounted bundle has, beside what is trusted already, for as long as there is no connection to the
// control plane: its certificate may be under a root that came while this sidecar was away. Once connected it is told.
func (p *podlife) followRoots(ctx context.Context) {
	read := caclient.FileRoots(p.n.cfg.Pod.RootsPath)
	tick := time.NewTicker(rootsEvery)
	defer tick.Stop()
	for {
		p.n.mu.Lock()
		ads := p.n.ads
		p.n.mu.Unlock()
		if ads == nil || !ads.Status().Connected {
			p.trustMounted(read)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *podlife) trustMounted(read func() ([]*x509.Certificate, error)) {
	roots, err := read()
	if err == nil {
		if have := p.n.rotator.Current().Bundles[p.n.cfg.Pod.TrustDomain]; have != nil {
			roots = append(have.Roots(), roots...)
		}
		err = p.n.rotator.Trust(roots)
	}
	if err != nil {
		p.n.cfg.Log.Warn("the mounted trust bundle is not used", "error", err)
	}
}

// apply runs a view with what only this pod knows filled in. Of one that can't be run the DNS server learns nothing, unless it is
// the first: that is tried again until it can.
func (p *podlife) apply(v *mesh.View) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	v = p.assigner.Fill(v)
	if n := p.n.cfg.Pod.TrustedProxies; n != nil {
		own := *v
		own.Mesh.NumTrustedProxies = *n
		v = &own
	}
	err := p.n.corridors.apply(v)
	if p.dns != nil && (err == nil || p.n.corridors.current() == nil) {
		p.dns.Set(dns.NewTable(v))
	}
	return err
}

// ready says whether the pod may be given traffic.
func (p *podlife) ready() error {
	switch {
	case p.draining.Load():
		return errors.New("the sidecar ends")
	case p.n.rotator.Current().SVID == nil:
		return errors.New("the sidecar has no certificate yet")
	case p.n.corridors.current() == nil:
		return errors.New("the sidecar has no configuration yet")
	}
	return nil
}

// run serves the pod's ports until ctx ends. They answer from the first moment, and while the sidecar drains.
func (p *podlife) run(ctx context.Context) error {
	ports := p.n.cfg.Pod.Ports
	g, ctx := errgroup.WithContext(ctx)
	health := http.NewServeMux()
	health.HandleFunc("GET /healthz/ready", p.healthz)
	health.HandleFunc("POST /quitquitquit", p.quitquitquit)
	metrics := http.NewServeMux()
	metrics.HandleFunc("GET /healthz/ready", p.healthz)
	metrics.HandleFunc("POST /quitquitquit", p.quitquitquit)
	probes := newProber(p.n.cfg.Pod)
	metrics.Handle("GET /app-health/", probes)
	metrics.Handle("GET /app-lifecycle/", probes)
	stats := p.n.recorder.Handler()
	if app := p.n.cfg.Pod.Application; app != nil {
		stats = newMerger(p.n.recorder.Registry(), app, probes, p.n.cfg.Log)
	}
	metrics.Handle("GET /stats/prometheus", stats)
	metrics.Handle("GET /metrics", stats)
	each := maxPerWatcher + len(p.n.cfg.Pod.Probes)
	g.Go(func() error { return serveHTTP(ctx, ports.Ready, each, health) })
	g.Go(func() error { return serveHTTP(ctx, ports.Metrics, each, metrics) })
	g.Go(func() error { return p.n.admin.Run(ctx) })
	g.Go(func() error { p.followRoots(ctx); return nil })
	if p.dns != nil {
		g.Go(func() error { return p.dns.Run(ctx) })
	}
	return g.Wait()
}

// serveHTTP serves one of the pod's ports, on every address, until ctx ends, with at most perAddress connections from one address.
func serveHTTP(ctx context.Context, port uint16, perAddress int, h http.Handler) error {
	ln, err := listen(net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	callers := newWatchers(ln, maxWatchers, perAddress)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: answerTime,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnState: callers.state}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(callers); err != http.ErrServerClosed {
		return fmt.Errorf("serving port %d: %w", port, err)
	}
	return nil
}

// unhurried lifts the time for an answer until what is asked is known; written gives the time to write it.
func unhurried(rw http.ResponseWriter) (written func()) {
	c := http.NewResponseController(rw)
	_ = c.SetWriteDeadline(time.Time{}) // fails in tests only, whose writers have no connection
	return func() { _ = c.SetWriteDeadline(time.Now().Add(answerTime)) }
}

func (p *podlife) healthz(rw http.ResponseWriter, _ *http.Request) {
	if err := p.ready(); err != nil {
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
	}
}

// quitquitquit ends the sidecar: a Job's program calls it when it is done, where there are no native sidecars. Only the pod itself
// may.
func (p *podlife) quitquitquit(rw http.ResponseWriter, req *http.Request) {
	if from, err := netip.ParseAddrPort(req.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
		http.Error(rw, "only a program of this pod may end the sidecar: call it at 127.0.0.1", http.StatusForbidden)
		return
	}
	// A Job that ends with curl's exit code wants the whole answer, so it is on its way before the port closes.
	rw.Header().Set("Connection", "close")
	rw.Header().Set("Content-Length", "2")
	_, _ = io.WriteString(rw, "OK")
	_ = http.NewResponseController(rw).Flush()
	p.once.Do(func() { close(p.quit) })
}

// adminServer is the person's door, at a loopback port that the API server's port-forward reaches.
func (p *podlife) adminServer() *admin.Server {
	n := p.n
	return admin.New(admin.Config{
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(int(n.cfg.Pod.Ports.Admin))),
		Status:  func() any { return n.dump() },
		Handlers: map[string]http.Handler{
			"POST " + explain.WhyPath:    explain.Handler(n.at),
			"GET " + explain.DenialsPath: http.HandlerFunc(n.denials),
			"GET /certs":                 http.HandlerFunc(p.certificates),
			"GET /healthz/ready":         http.HandlerFunc(p.healthz),
			"GET /stats/prometheus":      n.recorder.Handler(),
			"POST /quitquitquit":         http.HandlerFunc(p.quitquitquit),
		}})
}

// Certificate is one certificate of GET /certs.
type Certificate struct {
	URI       []string  `json:"uri,omitempty"`
	Subject   string    `json:"subject"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// certificates answers with what the sidecar proves itself with and what it trusts.
func (p *podlife) certificates(rw http.ResponseWriter, _ *http.Request) {
	out := struct {
		Chain []Certificate            `json:"chain"`
		Roots map[string][]Certificate `json:"roots"`
	}{[]Certificate{}, map[string][]Certificate{}}
	snap := p.n.rotator.Current()
	if snap.SVID != nil {
		out.Chain = describe(snap.SVID.Chain)
	}
	for td, b := range snap.Bundles {
		out.Roots[td] = describe(b.Roots())
	}
	rw.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(rw).Encode(out)
}

func describe(list []*x509.Certificate) []Certificate {
	out := []Certificate{}
	for _, c := range list {
		one := Certificate{Subject: c.Subject.String(), Serial: c.SerialNumber.Text(16), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
		for _, u := range c.URIs {
			one.URI = append(one.URI, u.String())
		}
		out = append(out, one)
	}
	return out
}
