package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

// Limits of one pod's queries.
const (
	// MaxQueries is how many are answered at once; those beyond are answered SERVFAIL.
	MaxQueries = 1024
	// MaxSame is how many with the same question are answered at once: more is a loop, through a resolver of the pod's own that
	// sends back here what it was asked from here.
	MaxSame = 64
	// MaxConnections is how many clients may be connected over TCP.
	MaxConnections = 256
)

// ttl of answers from the mesh, in seconds: Istio's.
const ttl = 30

// ednsSize is how big a query over UDP may be: what fits every link (RFC 9715).
const ednsSize = 1232

// Config is what a Server needs.
type Config struct {
	// Listen are the addresses, each for UDP and TCP. One of a family that the host has not is left out, if another remains.
	Listen []string
	// Resolvers are host:port of the pod's own resolvers, asked in turn.
	Resolvers []string
	// ClusterDomain is that of Kubernetes' Services ("cluster.local").
	ClusterDomain string
	// Demand is told of a name that the table lacks; when it returns the table may have it. nil where the table has everything.
	Demand func(ctx context.Context, name string) error
	// Used is told of a name that the table has and that a program resolves; nil for nobody.
	Used func(name string)
	// Timeout is how long one resolver may take; 0 means 2 s.
	Timeout time.Duration
	Log     *slog.Logger
}

// Server answers queries. Safe for concurrent use.
type Server struct {
	cfg   Config
	table atomic.Pointer[Table]
	slots chan struct{} // one taken for each query that is being answered

	mu     sync.Mutex // guards what follows
	asked  map[dns.Question]int
	looped bool // a loop was logged
}

// New builds a Server that knows no host; nothing is opened before Run.
func New(cfg Config) *Server {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	return &Server{cfg: cfg, slots: make(chan struct{}, MaxQueries), asked: map[dns.Question]int{}}
}

// Set puts a table in force.
func (s *Server) Set(t *Table) { s.table.Store(t) }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	servers, err := s.open(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, srv := range servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		g.Go(func() error {
			defer close(done)
			if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("serving DNS: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			select { // Shutdown of what has not started does nothing
			case <-started:
				_ = srv.Shutdown()
			case <-done:
			}
			return nil
		})
	}
	return g.Wait()
}

// open opens the sockets.
func (s *Server) open(ctx context.Context) ([]*dns.Server, error) {
	var out []*dns.Server
	var missing error
	for _, addr := range s.cfg.Listen {
		u, err := net.ListenPacket("udp", addr)
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			missing = err
			continue
		}
		var t net.Listener
		if err == nil {
			t, err = net.Listen("tcp", addr)
		}
		if err != nil {
			for _, o := range out {
				closeSockets(o)
			}
			if u != nil {
				u.Close()
			}
			return nil, fmt.Errorf("opening DNS server on %s: %w", addr, err)
		}
		handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
		out = append(out, &dns.Server{PacketConn: u, Handler: handler},
			&dns.Server{Listener: netutil.LimitListener(t, MaxConnections), Handler: handler})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("opening DNS server: none of the addresses %v is this host's: %w", s.cfg.Listen, missing)
	}
	return out, nil
}

func closeSockets(s *dns.Server) {
	if s.PacketConn != nil {
		s.PacketConn.Close()
	}
	if s.Listener != nil {
		s.Listener.Close()
	}
}

// serve answers one query.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	answer := s.answer(ctx, q, overTCP)
	answer.Id, answer.Question = q.Id, q.Question
	if q.IsEdns0() != nil && answer.IsEdns0() == nil {
		answer.SetEdns0(ednsSize, false)
	}
	answer.Compress = true
	size := dns.MaxMsgSize
	if !overTCP {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	answer.Truncate(size)
	_ = w.WriteMsg(answer) // a client that is gone needs no answer
}

func (s *Server) answer(ctx context.Context, q *dns.Msg, overTCP bool) *dns.Msg {
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return refuse(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return refuse(q, dns.RcodeFormatError)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return refuse(q, dns.RcodeServerFailure)
	}
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	question.Name = name
	if !s.enter(question) {
		return refuse(q, dns.RcodeServerFailure)
	}
	defer s.exit(question)
	address := question.Qclass == dns.ClassINET && (question.Qtype == dns.TypeA || question.Qtype == dns.TypeAAAA)
	e, known := s.table.Load().find(name)
	switch {
	case known && address:
		if s.cfg.Used != nil {
			s.cfg.Used(name)
		}
		return e.answer(q)
	case address && s.worthAsking(name):
		return s.demand(ctx, q, name, overTCP)
	}
	answer := s.forward(ctx, q, overTCP)
	if known && e.assigned && answer.Rcode == dns.RcodeNameError { // it does exist; it only has nothing of this type
		answer.Rcode = dns.RcodeSuccess
	}
	return answer
}

// demand asks the mesh and the pod's resolvers at once. What the mesh knows wins.
func (s *Server) demand(ctx context.Context, q *dns.Msg, name string, overTCP bool) *dns.Msg {
	elsewhere := make(chan *dns.Msg, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { elsewhere <- s.forward(ctx, q, overTCP) }()
	_ = s.cfg.Demand(ctx, name) // an error means that nobody knows; the others' answer is the best there is
	if e, known := s.table.Load().find(name); known {
		cancel()
		<-elsewhere
		return e.answer(q)
	}
	return <-elsewhere
}

// worthAsking reports whether a name may be one of the mesh. What a client's search list makes of a name that has dots
// (api.example.com.shop.svc.cluster.local) is not: below the cluster's domain names have the form SERVICE.NAMESPACE.svc.
func (s *Server) worthAsking(name string) bool {
	if s.cfg.Demand == nil || !strings.Contains(name, ".") {
		return false
	}
	inside, ok := strings.CutSuffix(name, "."+s.cfg.ClusterDomain)
	if !ok || s.cfg.ClusterDomain == "" {
		return true
	}
	inside, ok = strings.CutSuffix(inside, ".svc")
	return ok && strings.Count(inside, ".") == 1
}

// enter counts a question, unless as many of the same are being answered that it must be a loop.
func (s *Server) enter(q dns.Question) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked[q] >= MaxSame {
		if !s.looped {
			s.looped = true
			s.cfg.Log.Warn("refusing DNS queries: too many with the same question at once; does a resolver in this pod send them back?", "name", q.Name)
		}
		return false
	}
	s.asked[q]++
	return true
}

func (s *Server) exit(q dns.Question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked[q]--; s.asked[q] == 0 {
		delete(s.asked, q)
	}
}

// answer is a host's addresses of the type that is asked for; none of that type is an empty answer.
func (e entry) answer(q *dns.Msg) *dns.Msg {
	out := new(dns.Msg).SetReply(q)
	out.Authoritative, out.RecursionAvailable = true, true
	head := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: ttl, Rrtype: q.Question[0].Qtype}
	if head.Rrtype == dns.TypeA {
		for _, a := range e.four {
			out.Answer = append(out.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		}
		return out
	}
	for _, a := range e.six {
		out.Answer = append(out.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
	}
	return out
}

func refuse(q *dns.Msg, code int) *dns.Msg {
	out := new(dns.Msg).SetRcode(q, code)
	out.RecursionAvailable = true
	return out
}
