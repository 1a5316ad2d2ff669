package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/signet-mesh/signet/proxy/capture"
)

const (
	maxRedirects   = 10       // kubelet's, as net/http's
	maxProbeHeader = 64 << 10 // of an answer, in bytes
)

// prober does what kubelet asks of the pod's programs, from inside, where no policy stands in its way: its connections come from
// the address of capture.Passthrough, which is never captured. Everybody who reaches the pod may ask, so those who ask the same at
// a time share an answer: nobody can keep a program, or the prober, busy with it.
type prober struct {
	pod *Pod
	mu  sync.Mutex
	// flights are the probes under way; guarded by mu.
	flights map[asked]*flight
}

// asked is what makes two requests alike: the program sees no more of them.
type asked struct{ path, agent, accept string }

// flight is one probe under way.
type flight struct {
	askers int // guarded by prober.mu; without any it ends
	cancel context.CancelFunc
	done   chan struct{} // closed when the rest is known
	status int
	err    error
	late   bool // it took its whole time
}

func newProber(p *Pod) *prober { return &prober{pod: p, flights: map[asked]*flight{}} }

// ServeHTTP answers kubelet's request with the status of what it stands for.
func (p *prober) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	probe, ok := p.pod.Probes[req.URL.Path]
	if !ok {
		http.Error(rw, fmt.Sprintf("no probe %q was rewritten for this pod", req.URL.Path), http.StatusNotFound)
		return
	}
	written := unhurried(rw)
	status, err := p.ask(req.Context(), &probe, req)
	written()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.WriteHeader(status)
}

// ask waits for a probe's answer, as long as the probe may take. One that began before it was asked for may end late for that
// reason only, so its lateness is not told: the time that kubelet grants begins with its question.
func (p *prober) ask(ctx context.Context, probe *Probe, req *http.Request) (int, error) {
	wait, cancel := bounded(ctx, probe.Timeout)
	defer cancel()
	for {
		f, mine := p.join(ctx, probe, req)
		if mine {
			wait = ctx // the probe itself ends in time, and says what it waited for
		}
		known := false
		select {
		case <-f.done:
			known = mine || !f.late
		case <-wait.Done():
		}
		p.leave(f)
		switch {
		case known:
			return f.status, f.err
		case wait.Err() != nil:
			return 0, wait.Err()
		}
	}
}

// bounded is ctx with that timeout; 0 is none.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// join finds the probe that is under way for such a request, or starts it: mine.
func (p *prober) join(ctx context.Context, probe *Probe, req *http.Request) (f *flight, mine bool) {
	key := asked{req.URL.Path, strings.Join(req.Header.Values("User-Agent"), "\n"), strings.Join(req.Header.Values("Accept"), "\n")}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[key]; f != nil && f.askers > 0 {
		f.askers++
		return f, false
	}
	ctx, cancel := bounded(context.WithoutCancel(ctx), probe.Timeout) // it may outlive whom it was started for
	f = &flight{askers: 1, cancel: cancel, done: make(chan struct{})}
	p.flights[key] = f
	headers := req.Header.Clone()
	go func() {
		f.status, f.err = p.do(ctx, probe, headers)
		f.late = ctx.Err() != nil
		p.mu.Lock()
		if p.flights[key] == f {
			delete(p.flights, key)
		}
		p.mu.Unlock()
		close(f.done)
	}()
	return f, true
}

// leave ends a probe that nobody waits for any more, and waits for that.
func (p *prober) leave(f *flight) {
	p.mu.Lock()
	f.askers--
	last := f.askers == 0
	p.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
}

func (p *prober) do(ctx context.Context, probe *Probe, headers http.Header) (int, error) {
	switch {
	case probe.HTTPGet != nil:
		return p.get(ctx, probe.HTTPGet, headers)
	case probe.TCPSocket != nil:
		c, err := p.dial(ctx, p.target(probe.TCPSocket.Host, probe.TCPSocket.Port))
		if err != nil {
			return 0, err
		}
		return http.StatusOK, c.Close()
	case probe.GRPC != nil:
		return http.StatusOK, p.health(ctx, probe.GRPC)
	}
	return 0, errors.New("the probe says neither httpGet nor tcpSocket nor grpc")
}

// get is an HTTP probe by kubelet's rules: no certificate is verified, a redirect is followed on the same host only and counts as
// a success elsewhere. The status is the program's; kubelet judges it.
func (p *prober) get(ctx context.Context, h *HTTPProbe, headers http.Header) (int, error) {
	u, err := probeURL(h, p.target(h.Host, h.Port))
	if err != nil {
		return 0, err
	}
	out, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, fmt.Errorf("building probe: %w", err)
	}
	for _, name := range [...]string{"User-Agent", "Accept"} {
		if v := headers.Values(name); len(v) > 0 {
			out.Header[name] = v
		}
	}
	given := http.Header{}
	for _, kv := range h.Headers {
		given.Add(kv[0], kv[1])
	}
	for name, values := range given {
		out.Header[name] = values
	}
	if host := given.Get("Host"); host != "" {
		out.Host = host
		out.Header.Del("Host")
	}
	tr := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, Proxy: nil, MaxResponseHeaderBytes: maxProbeHeader,
		DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dial(ctx, addr) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // as kubelet: a probe proves nothing but that somebody answers
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, CheckRedirect: sameHost}).Do(out)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func sameHost(req *http.Request, via []*http.Request) error {
	switch {
	case req.URL.Hostname() != via[0].URL.Hostname():
		return http.ErrUseLastResponse
	case len(via) >= maxRedirects:
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return nil
}

// probeURL reads the path as kubelet does: it may have a query.
func probeURL(h *HTTPProbe, target string) (*url.URL, error) {
	u, err := url.Parse(h.Path)
	if err != nil { // whatever it is, it is the path
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = strings.ToLower(h.Scheme), target
	switch u.Scheme {
	case "http", "https":
		return u, nil
	case "":
		u.Scheme = "http"
		return u, nil
	}
	return nil, fmt.Errorf("scheme %q of an HTTP probe: want HTTP or HTTPS", h.Scheme)
}

// health asks by the gRPC health protocol (grpc/health/v1/health.proto).
func (p *prober) health(ctx context.Context, g *GRPCProbe) error {
	conn, err := grpc.NewClient("passthrough:///"+p.target("", g.Port), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent("kube-probe"), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxProbeHeader)), grpc.WithContextDialer(p.dial))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: g.Service})
	if err != nil {
		return fmt.Errorf("asking service %q for its health: %w", g.Service, err)
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service %q is %s", g.Service, answer.Status)
	}
	return nil
}

// target is the host that a probe names, else the pod's address.
func (p *prober) target(host string, port uint16) string {
	if host == "" {
		host = p.pod.address().String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// dial connects to a program of this pod. One that serves the loopback interface only is tried when the pod's address refuses.
func (p *prober) dial(ctx context.Context, addr string) (net.Conn, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil || !p.own(at.Addr()) { // another host, which a probe may name: as kubelet would, from where we are
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	c, err := dialInside(ctx, at)
	if errors.Is(err, syscall.ECONNREFUSED) && !at.Addr().IsLoopback() {
		local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if at.Addr().Is6() {
			local = netip.IPv6Loopback()
		}
		if again, e := dialInside(ctx, netip.AddrPortFrom(local, at.Port())); e == nil {
			return again, nil
		}
	}
	return c, err
}

func (p *prober) own(a netip.Addr) bool {
	for _, mine := range p.pod.Addresses {
		if a == mine {
			return true
		}
	}
	return a.IsLoopback()
}

// dialInside connects from the address whose connections are not captured.
func dialInside(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	from := capture.Passthrough4
	if to.Addr().Is6() {
		from = capture.Passthrough6
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), KeepAlive: -1 * time.Second}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if errors.Is(err, syscall.EADDRNOTAVAIL) { // nothing was installed here, as where a CNI plugin captures; ::1 has no other name
		d.LocalAddr = nil
		return d.DialContext(ctx, "tcp", to.String())
	}
	if err != nil {
		return nil, err // not c: a nil *TCPConn is no nil net.Conn
	}
	return c, nil
}
