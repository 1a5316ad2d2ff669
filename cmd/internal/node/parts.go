package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	policies "github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/authz/extauthz"
	"github.com/signet-mesh/signet/authz/rego"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/limit/lease"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// parts is what policies need that outlives one configuration: key sets that are fetched, RegoPolicies with their bundles,
// connections to external authorizers, the counters of limits and the store that they share. It is a compile.Parts.
//
// A configuration is compiled between begin and commit or abort: what it asks for is taken from the one before where that
// had the same, else made; commit starts what is new and ends what nobody asked for. One at a time.
type parts struct {
	log       *slog.Logger
	workload  string
	principal func() identity.ID // the workload's own, nobody while it has none; nil is nobody
	cache     string             // directory of last good bundles and key sets, "" for none
	clusters  atomic.Pointer[map[string]*upstream.Cluster]
	registry  *limit.Registry
	compiled  *policies.Cache
	mu        sync.Mutex // guards in, which Status reads
	in, next  map[string]*part
	life      context.Context // of what runs; set by the node's Run
	running   sync.WaitGroup
	over      chan struct{} // closed by stop
	drain     time.Duration // drainParts
	failedRun func(string, error)
}

// drainParts is how long what is no longer asked for stays open for the requests that are being judged by it.
const drainParts = 5 * time.Second

// part is one thing that is kept.
type part struct {
	value any
	// run blocks until its context ends; nil for what has no life of its own.
	run  func(context.Context) error
	stop context.CancelFunc
}

func newParts(log *slog.Logger, workload, cache string) *parts {
	p := &parts{log: log, workload: workload, cache: cache, registry: limit.NewRegistry(nil), compiled: policies.NewCache(), in: map[string]*part{},
		over: make(chan struct{}), drain: drainParts}
	p.failedRun = func(what string, err error) { log.Error("a part of the policies ended", "part", what, "error", err) }
	return p
}

func (p *parts) begin() { p.next = map[string]*part{} }

// abort forgets what was made for a configuration that is not run.
func (p *parts) abort() {
	for key, one := range p.next {
		if p.in[key] != one {
			one.close()
		}
	}
	p.next = nil
}

// commit starts what is new and ends what is no longer asked for. The configuration before still runs: what that closes is
// closed a while later.
func (p *parts) commit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, one := range p.in {
		if p.next[key] != one {
			one.end()
			p.running.Go(func() { p.retire(one) })
		}
	}
	for key, one := range p.next {
		if p.in[key] != one {
			p.start(key, one)
		}
	}
	p.in, p.next = p.next, nil
}

func (p *parts) start(key string, one *part) {
	if one.run == nil {
		return
	}
	ctx, cancel := context.WithCancel(p.life)
	one.stop = cancel
	p.running.Go(func() {
		if err := one.run(ctx); err != nil && ctx.Err() == nil {
			p.failedRun(key, err)
		}
	})
}

// retire closes what may still be in use when that is over.
func (p *parts) retire(one *part) {
	t := time.NewTimer(p.drain)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.over:
	}
	one.close()
}

// end ends what a part runs.
func (o *part) end() {
	if o.stop != nil {
		o.stop()
	}
}

func (o *part) close() {
	if c, ok := o.value.(interface{ Close() }); ok {
		c.Close()
	}
}

// stop ends everything and waits for it. To be called once.
func (p *parts) stop() {
	close(p.over)
	p.mu.Lock()
	for _, one := range p.in {
		one.end()
		one.close()
	}
	p.in = map[string]*part{}
	p.mu.Unlock()
	p.running.Wait()
}

// keep is the part of that key, made if there is none.
func keep[T any](p *parts, key string, build func() (T, func(context.Context) error, error)) (T, error) {
	for _, have := range []map[string]*part{p.next, p.in} {
		if one := have[key]; one != nil {
			p.next[key] = one
			return one.value.(T), nil
		}
	}
	value, run, err := build()
	if err != nil {
		return value, err
	}
	p.next[key] = &part{value: value, run: run}
	return value, nil
}

// digest stands for a message that may hold a secret.
func digest(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return fmt.Sprintf("%x %v", sha256.Sum256(b), err)
}

// Keys implements compile.Parts.
func (p *parts) Keys(_ *mesh.Meta, rule *security.JWTRule) (jwt.Keys, error) {
	if rule.Jwks != "" {
		return jwks.Static([]byte(rule.Jwks))
	}
	timeout := rule.Timeout.AsDuration()
	key := fmt.Sprintf("keys %q %q %v", rule.Issuer, rule.JwksUri, timeout)
	return keep(p, key, func() (*jwks.Remote, func(context.Context) error, error) {
		r, err := jwks.NewRemote(jwks.Config{Issuer: rule.Issuer, URL: rule.JwksUri, Timeout: timeout, StateDir: p.below("keys"), Log: p.log})
		if err != nil {
			return nil, nil, err
		}
		return r, r.Run, nil
	})
}

func (p *parts) below(name string) string {
	if p.cache == "" {
		return ""
	}
	return filepath.Join(p.cache, name)
}

// Rego implements compile.Parts.
func (p *parts) Rego(r *mesh.Typed[*policy.RegoPolicy], v *mesh.View) (authz.Authority, error) {
	key := fmt.Sprintf("rego %s/%s %q %s", r.Namespace, r.Name, v.RegoBuiltins, digest(r.Spec))
	return keep(p, key, func() (*rego.Policy, func(context.Context) error, error) {
		out, err := rego.New(rego.Config{Namespace: r.Namespace, Name: r.Name, Spec: r.Spec, Builtins: v.RegoBuiltins,
			Workload: p.workload, StateDir: p.below("bundles"), Log: p.log})
		if err != nil {
			return nil, nil, err
		}
		return out, out.Run, nil
	})
}

// ExtAuthz implements compile.Parts. Its connections go to the endpoints that the cluster has when they are made.
func (p *parts) ExtAuthz(provider *meshconfig.MeshConfig_ExtensionProvider, cluster string) (authz.Authority, error) {
	return keep(p, "authorizer "+cluster+" "+digest(provider), func() (*extauthz.Client, func(context.Context) error, error) {
		c, err := extauthz.New(extauthz.Config{Provider: provider, Principal: p.principal, Log: p.log, Dial: func(ctx context.Context) (net.Conn, error) {
			return p.dial(ctx, cluster)
		}})
		return c, nil, err
	})
}

func (p *parts) dial(ctx context.Context, cluster string) (net.Conn, error) {
	var c *upstream.Cluster
	if all := p.clusters.Load(); all != nil {
		c = (*all)[cluster]
	}
	if c == nil {
		return nil, errors.New("dialling external authorizer: its service does not exist")
	}
	rec := proxy.Record{Side: proxy.SourceSide}
	conn, failure := forward.Dial(ctx, c, &rec)
	if failure != nil {
		return nil, failure
	}
	return conn, nil
}

// Limits implements compile.Parts.
func (p *parts) Limits() *limit.Registry { return p.registry }

// Policies implements compile.Parts.
func (p *parts) Policies(string) *policies.Cache { return p.compiled }

// store keeps the store of global limits that a view names.
func (p *parts) store(v *mesh.View, id string) (limit.Store, error) {
	if v.LimitStore == nil {
		return nil, nil
	}
	return keep(p, "store "+digest(v.LimitStore), func() (*lease.Leases, func(context.Context) error, error) {
		l, err := lease.New(lease.Config{Store: v.LimitStore, ID: id, Log: p.log})
		if err != nil {
			return nil, nil, err
		}
		return l, l.Run, nil
	})
}
