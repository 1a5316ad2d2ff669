package inbound

import (
	"net"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/telemetry"
)

const headerXFCC = "x-forwarded-client-cert"

// corridor is the HTTP half of a session: steps 3 to 7 for each request.
type corridor session

// Recorder implements forward.Corridor.
func (s *corridor) Recorder() proxy.Recorder { return s.l.rec }

// Begin implements forward.Corridor.
func (s *corridor) Begin(x *forward.Exchange) {
	(*session)(s).describe(&x.Rec, (*session)(s).config())
}

// Handle implements forward.Corridor.
func (s *corridor) Handle(x *forward.Exchange) *proxy.Failure {
	c := (*session)(s).config()
	if c.Mode == Strict && !x.Auth.Peer.Proven() { // accepted before the mode was changed
		s.l.rec.Refused(s.local, s.remote, reasonPlaintext, nil)
		return proxy.Fail(proxy.DownstreamGone, reasonPlaintext, nil)
	}
	if x.Req.Method == "CONNECT" {
		f := proxy.Fail(proxy.NoRoute, "connect_not_here", nil)
		f.Body = "CONNECT is served by the outbound HTTP_PROXY listener of the calling workload"
		return f
	}
	// What a caller says under the name of the mesh's own statement is never believed, nor shown to policies.
	x.Req.Del(headerXFCC)
	// 3 canonicalise, 4 authorize
	k := judge.Case{Connection: &x.Auth, Head: &x.Req, Request: &x.Judged, Scratch: &x.Scratch, Body: x, Received: x.Rec.Start}
	v, fail := c.Judge.Authorize(x.Life(), &k)
	x.Rec.Path, x.Rec.Query = x.Req.Path, x.Req.Query
	(*session)(s).note(&x.Rec, &v)
	if fail != nil {
		return fail
	}
	// 5 limit
	x.Edits = v.Client
	if fail = x.Limit(c.Limits); fail != nil {
		return fail
	}
	// 6 forward
	v.Strip(&k)
	x.Rec.RequestID = telemetry.EnsureRequestID(&x.Req)
	if s.xfcc != "" {
		x.Req.Add(headerXFCC, s.xfcc)
	}
	x.InFlight() // from here on the head is not changed: a new program may judge it again
	// A program that was swapped in between the decision and InFlight has not seen this request.
	if now := (*session)(s).config(); now != c {
		if now.Mode == Strict && !x.Auth.Peer.Proven() {
			return proxy.Fail(proxy.DownstreamGone, reasonPlaintext, nil)
		}
		if d := now.again(x.Life(), &x.Auth, &x.Judged); d != nil {
			x.Rec.DeniedBy = d.By
			return proxy.Fail(proxy.Denied, d.Detail, nil)
		}
	}
	return x.Forward(v.Permit, &forward.Plan{Cluster: c.Cluster, To: s.local})
}

// note writes into a record what judges said.
func (s *session) note(r *proxy.Record, v *judge.Verdict) {
	if v.By != nil {
		r.DeniedBy = v.By.By
	}
	if v.Audit != nil {
		r.Audited = v.Audit.ID
	}
	if len(v.Shadows) > 0 {
		s.shadows = s.shadows[:0]
		for _, shadow := range v.Shadows {
			s.shadows = append(s.shadows, proxy.Shadow{By: shadow.Rule.By, Denied: shadow.Denied})
		}
		r.Shadows = s.shadows
	}
}

// describe fills what a record says of the connection.
func (s *session) describe(r *proxy.Record, c *Config) {
	r.Side, r.Security = proxy.DestinationSide, s.security
	r.Source, r.Destination, r.Service = s.source, c.Self, c.Service
	r.Peer, r.SNI = s.auth.Peer, s.auth.SNI
	r.DownstreamLocal, r.DownstreamRemote = s.local, s.remote
	r.RouteName = "default"
}

// serveTCP is steps 4 to 7 for a connection that carries no HTTP we read. On a port that declares nothing it may turn out to be HTTP
// before a byte of it has passed: then it is to be served as such, of which early was read.
func (s *session) serveTCP(conn net.Conn, preread []byte, live *forward.Live) (early []byte, http bool) {
	c := s.config()
	rec := proxy.Record{TCP: true, Start: time.Now(), Flag: "-"}
	s.describe(&rec, c)
	rec.UpstreamCluster = c.Cluster.Name()
	defer func() {
		rec.Duration = time.Since(rec.Start)
		s.l.rec.Record(&rec)
	}()
	live.Begin(&s.auth, nil, nil)
	defer live.End()
	c = s.config() // not older than what Begin made visible to Rejudge
	if c.Mode == Strict && !s.auth.Peer.Proven() {
		s.l.rec.Refused(s.local, s.remote, reasonPlaintext, nil)
		forward.Note(&rec, proxy.Fail(proxy.DownstreamGone, reasonPlaintext, nil), live)
		return nil, false
	}
	var scratch judge.Scratch
	v, fail := c.Judge.AuthorizeTCP(live.Life(), &s.auth, &scratch)
	s.note(&rec, &v)
	s.l.rec.Opened(&rec)
	var g *guard
	if c.Protocol == mesh.Detect {
		if g = guarded(conn, preread, c.Detection); g.watched {
			conn = g
		}
	}
	if fail == nil {
		fail = forward.TCP(live.Life(), v.Permit, forward.Way{Cluster: c.Cluster, To: s.local}, conn, preread, live, &rec)
	}
	forward.Note(&rec, fail, live)
	switch {
	case g == nil:
	case g.http:
		_ = g.SetDeadline(time.Time{}) // that of its end as TCP
		return g.seen, true
	case g.late:
		s.l.rec.Refused(s.local, s.remote, reasonLateHTTP, nil)
	}
	return nil, false
}
