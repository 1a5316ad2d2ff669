package forward

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// Plan is what the corridor decided: where a request goes.
type Plan struct {
	Cluster *upstream.Cluster
	// Route and Destination are the outbound corridor's match, nil on the inbound side.
	Route       *route.Route
	Destination *route.Weighted
	// Retry is the route's policy; nil means Stale.
	Retry *route.Retry
	// To is where the call was made to, for a Cluster that leads there; the zero value for none.
	To netip.AddrPort
	// Conn is used in place of Cluster where there is none: a host that the mesh does not know. Forward takes it over.
	Conn *upstream.Conn
	// Timeout bounds the whole exchange from its request's first byte to the response's last; 0: no bound.
	Timeout time.Duration
}

// stale is the policy where nobody asked for retries: a request that met a pooled connection which the server had just
// closed is sent once more, if its method is idempotent.
func stale() *route.Retry { return &route.Retry{Attempts: 2, On: route.OnRefusedStream} }

// result is what became of one attempt.
type result struct {
	fail *proxy.Failure
	// outcome is for the retry policy; meaningless without fail or status.
	outcome route.Outcome
	// held is the upstream connection of an attempt whose response head is in x.Resp and not yet relayed.
	held *upstream.Conn
	n    int // bytes of the response head in held.Buf, w how many bytes are there
	w    int
}

// Forward carries the request to the plan's cluster and the response back. It demands a permit: without a valid one nothing
// is sent. Retries are the plan's; nothing is sent twice once its body was consumed.
func (x *Exchange) Forward(permit authz.Permit, p *Plan) *proxy.Failure {
	if !permit.Valid() {
		return proxy.Fail(proxy.Internal, "forward_without_permit", nil)
	}
	if x.Req.Method == "CONNECT" { // an answer to it would turn a pooled connection into a tunnel
		return proxy.Fail(proxy.Internal, "forward_of_connect", nil)
	}
	if p.Retry == nil {
		p.Retry = x.stale
	}
	var deadline time.Time
	if p.Timeout > 0 {
		deadline = x.Rec.Start.Add(p.Timeout)
	}
	if p.Conn != nil {
		res := x.converse(p.Conn, p, deadline)
		if res.fail != nil {
			x.stopPump(nil)
			return res.fail
		}
		return x.relay(&res, p, deadline)
	}
	x.Rec.UpstreamCluster = p.Cluster.Name()
	var triedArray [8]*upstream.Endpoint
	tried := triedArray[:0]
	fresh := false
	for made := 0; ; made++ {
		ep := p.Cluster.PickFor(p.To, tried)
		if ep == nil && p.Cluster.Await(x.life) {
			ep = p.Cluster.PickFor(p.To, tried)
		}
		if ep == nil {
			return proxy.Fail(proxy.NoHealthyUpstream, "", nil)
		}
		res := x.attempt(ep, p, deadline, fresh)
		if !x.again(p, &res, made, deadline) {
			if res.fail != nil {
				x.stopPump(nil)
				return res.fail
			}
			return x.relay(&res, p, deadline)
		}
		if res.held != nil {
			res.held.Discard()
		}
		if fresh = res.outcome.Stale; fresh {
			made-- // the endpoint never was asked: at once and on a new connection, which can't be stale
			continue
		}
		if len(tried) < cap(tried) {
			tried = append(tried, ep)
		}
		time.Sleep(p.Retry.Delay(made, rand.Uint64()))
	}
}

// again asks the retry policy.
func (x *Exchange) again(p *Plan, res *result, made int, deadline time.Time) bool {
	if x.consumed || x.answered || x.live.over() || made >= p.Retry.Attempts && !res.outcome.Stale {
		return false
	}
	o := res.outcome
	if res.fail == nil {
		if x.Resp.Status == 101 {
			return false
		}
		o = route.Outcome{Status: x.Resp.Status, GRPCStatus: x.Resp.Get("grpc-status")}
	}
	o.Refused = o.Refused || refusedBySidecar(res, &x.Resp)
	o.Idempotent = route.IdempotentMethod(x.Req.Method)
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return false
	}
	return p.Retry.Judge(o)
}

// attempt sends the request to one endpoint, over a new connection if it must be fresh, and waits for the response head.
func (x *Exchange) attempt(ep *upstream.Endpoint, p *Plan, deadline time.Time, fresh bool) result {
	x.Rec.UpstreamHost, x.Rec.Destination = ep.AddrPort(), x.destination(ep)
	connectBy := deadline
	if t := p.Retry.PerTryTimeout; t > 0 {
		if at := time.Now().Add(t); connectBy.IsZero() || at.Before(connectBy) {
			connectBy = at
		}
	}
	var u *upstream.Conn
	var fail *proxy.Failure
	switch {
	case fresh:
		u, fail = ep.Dial(x.life, connectBy)
	case !route.IdempotentMethod(x.Req.Method) || !x.bodyHere():
		u, fail = ep.AcquireChecked(x.life, connectBy)
	default:
		u, fail = ep.Acquire(x.life, connectBy)
	}
	if fail != nil {
		return result{fail: fail, outcome: route.Outcome{ConnectFailure: true}}
	}
	return x.converse(u, p, deadline)
}

// converse sends the request over one connection and waits for the response head. It ends the loan of u unless the result
// holds it.
func (x *Exchange) converse(u *upstream.Conn, p *Plan, deadline time.Time) result {
	x.upRead = readDeadline{}
	x.Rec.UpstreamLocal = u.Local()
	x.live.setUp(u)
	x.reached = true
	sent := time.Now()
	if err := x.send(u); err != nil {
		return x.parting(u, err)
	}
	by := deadline
	if t := p.Retry.PerTryTimeout; t > 0 {
		if at := sent.Add(t); by.IsZero() || at.Before(by) {
			by = at
		}
	}
	n, w, err := x.await(u, by)
	if err == nil {
		x.Rec.UpstreamTime = time.Since(sent)
		return result{held: u, n: n, w: w}
	}
	var f *proxy.Failure
	if errors.As(err, &f) {
		u.Discard()
		return result{fail: f, outcome: route.Outcome{Timeout: f.Code == proxy.UpstreamTimeout}}
	}
	if w > 0 { // part of a head: the server did answer
		u.Discard()
		return result{fail: proxy.Fail(proxy.UpstreamProtocol, "", err), outcome: route.Outcome{Reset: true}}
	}
	return x.broken(u, err)
}

// destination is the endpoint's party, or on the inbound side the workload itself.
func (x *Exchange) destination(ep *upstream.Endpoint) *proxy.Party {
	if d := ep.Party(); d != nil {
		return d
	}
	return x.Rec.Destination
}

// send writes the request head and as much of the body as is there, in one write; a body that is still arriving is left to
// a pump.
func (x *Exchange) send(u *upstream.Conn) error {
	keep := x.Req.Close
	x.Req.Close = false // the upstream connection is ours to keep
	x.out = http1.AppendRequest(x.out[:0], &x.Req)
	x.Req.Close = keep
	if x.bodyHere() {
		x.pending = 0
		if x.Req.Body == proxy.BodyLength {
			x.pending = int(x.Req.Length)
			x.out = append(x.out, x.buf[x.r:x.r+x.pending]...)
		}
		_, err := u.Write(x.out)
		return err
	}
	if _, err := u.Write(x.out); err != nil {
		return err
	}
	x.consumed = true
	x.startPump(u)
	return nil
}

// await reads the response head into x.Resp; interim responses go to the client at once. n bytes of u.Buf[:w] are the head.
func (x *Exchange) await(u *upstream.Conn, by time.Time) (n, w int, err error) {
	var watch *watch
	defer func() { watch.stop() }()
	x.Resp.Reset() // once a head: the codec remembers in it how far it has searched
	for {
		if w > 0 {
			n, err = http1.ParseResponse(u.Buf[:w], &x.Resp, x.Req.Method, &x.limits)
			if err != nil {
				return 0, w, proxy.Fail(proxy.UpstreamProtocol, "", err)
			}
			if n > 0 {
				if x.Resp.Status >= 200 || x.Resp.Status == 101 {
					return n, w, nil
				}
				if !x.interim() {
					return 0, w, proxy.Fail(proxy.DownstreamGone, "", nil)
				}
				w = copy(u.Buf, u.Buf[n:w])
				x.Resp.Reset()
				continue
			}
		}
		if w == len(u.Buf) {
			u.Buf = append(u.Buf, make([]byte, max(smallBuffer, len(u.Buf)))...)
		}
		x.armUpstream(u, time.Now(), by)
		if x.lost(watch) {
			if f := x.pump.failure(); f != nil {
				return 0, w, f
			}
			return 0, w, proxy.Fail(proxy.DownstreamGone, "", nil)
		}
		m, err := u.Read(u.Buf[w:])
		w += m
		if m > 0 {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			if err == nil {
				err = io.ErrNoProgress
			}
			return 0, w, err
		}
		x.upRead = readDeadline{}
		if now := time.Now(); !by.IsZero() && !now.Before(by) {
			return 0, w, proxy.Fail(proxy.UpstreamTimeout, "", nil)
		}
		if watch == nil && x.pump.finished() {
			watch = x.watchClient(u)
		}
	}
}

// armUpstream sets the read deadline for a wait that ends at by (zero: never), waking earlier to watch the client.
func (x *Exchange) armUpstream(u *upstream.Conn, now, by time.Time) {
	if !by.IsZero() && by.Sub(now) < upstreamWatch {
		x.upRead.exactly(u, by)
		return
	}
	x.upRead.within(u, now, upstreamWatch)
}

// interim relays a 1xx response to a client that knows them.
func (x *Exchange) interim() bool {
	if x.Req.Minor == 0 {
		return true
	}
	x.Resp.Close = false
	x.out = http1.AppendResponse(x.out[:0], &x.Resp)
	return x.write(x.out)
}
