package adsclient_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
	"github.com/signet-mesh/signet/mesh/adsserver"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// onDemand starts the client of a node that gets no more than it asks for.
func (p *plane) onDemand(node, serviceAccount string, on adsclient.Store) *proxy {
	p.t.Helper()
	ns, name, _ := strings.Cut(node, "/")
	svid := p.ca.SVID(p.t, "spiffe://"+trustDomain+"/ns/"+ns+"/sa/"+serviceAccount)
	x := &proxy{t: p.t, source: certtest.NewSource(svid, p.ca.Bundle()), views: make(chan *mesh.View, 10_000)}
	var err error
	x.client, err = adsclient.New(adsclient.Config{Addr: p.addr, Source: x.source, Server: p.id, Namespace: ns, Workload: name,
		Log: discard(), Apply: x.apply, Store: on, OnDemand: true})
	if err != nil {
		p.t.Fatal(err)
	}
	x.run()
	p.t.Cleanup(func() { x.halt() })
	return x
}

// until is the first view from now on that satisfies.
func (x *proxy) until(what string, ok func(*mesh.View) bool) *mesh.View {
	x.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if v := x.next(); ok(v) {
			return v
		}
	}
	x.t.Fatalf("never: %s", what)
	return nil
}

// answers waits for a view that answers a name.
func (x *proxy) answers(name string) (*mesh.View, mesh.Answer) {
	x.t.Helper()
	v := x.until("an answer for "+name, func(v *mesh.View) bool { _, ok := v.Asked[name]; return ok })
	return v, v.Asked[name]
}

func TestAskAndAnswer(t *testing.T) {
	p := newPlane(t)
	x := p.onDemand("shop/frontend", "frontend", nil)
	if v := x.next(); v.Asked == nil || len(v.Services) != 0 || len(v.Peers) != 1 {
		t.Errorf("before anything is asked: %d services, %d peers", len(v.Services), len(v.Peers))
	}
	x.client.Ask(reviewsHost)
	v, a := x.answers(reviewsHost)
	if a.Host != reviewsHost || len(v.Services) != 1 || len(v.VirtualServices) != 1 || len(v.Services[0].Endpoints[0]) != 1 {
		t.Errorf("answer %+v, services %d, routes %d", a, len(v.Services), len(v.VirtualServices))
	}
	if !x.client.Connected() {
		t.Error("not connected")
	}
	x.client.Ask("Unknown.Example.", "not a name", "127.0.10.2")
	v, a = x.answers("unknown.example")
	if a != (mesh.Answer{}) || v.Asked["127.0.10.2"].Workload != "shop/reviews-v1" || len(v.Peers) != 2 || len(v.Asked) != 3 {
		t.Errorf("answers %+v", v.Asked)
	}
	eventually(t, "in sync", p.inSync("shop/frontend"))
	before := x.client.Status()
	x.client.Ask(reviewsHost, "unknown.example")
	x.quiet(before)

	// What was unknown comes to be, without being asked for again.
	p.text += "\n---\n" + entryOf("unknown", "unknown.example", "127.0.10.77")
	p.store.set(build(t, p.text))
	if v, a := x.answers("unknown.example"); a.Host != "unknown.example" || service(t, v, "unknown.example") == nil {
		t.Errorf("answer %+v", a)
	}
	p.remove("ServiceEntry", "unknown")
	if v, a := x.answers("unknown.example"); a.Host != "" || len(v.Services) != 1 {
		t.Errorf("answer %+v, %d services", a, len(v.Services))
	}
}

func entryOf(name, host, address string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: %s\n  namespace: shop\nspec: {hosts: [%s], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: %s}]}\n", name, host, address)
}

func TestAskedNamesSurviveTheStream(t *testing.T) {
	p := newPlane(t)
	x := p.onDemand("shop/frontend", "frontend", nil)
	x.next()
	x.client.Ask(reviewsHost)
	x.answers(reviewsHost)
	p.halt()
	eventually(t, "disconnected", func() bool { return !x.client.Connected() })
	x.client.Ask("later.example") // while nobody hears it
	p.text += "\n---\n" + entryOf("later", "later.example", "127.0.10.78")
	p.store.set(build(t, p.text))
	p.start()
	v, a := x.answers("later.example")
	if a.Host != "later.example" || v.Asked[reviewsHost].Host != reviewsHost || len(v.Services) != 2 {
		t.Errorf("answers %+v", v.Asked)
	}
}

func TestStoredAnswersAreRunOn(t *testing.T) {
	p, on := newPlane(t), &shelf{}
	x := p.onDemand("shop/frontend", "frontend", on)
	x.next()
	x.client.Ask(reviewsHost, "none.example")
	x.answers("none.example")
	eventually(t, "in sync", p.inSync("shop/frontend"))
	x.halt()
	p.halt()

	y := p.onDemand("shop/frontend", "frontend", on)
	v, _ := y.answers("none.example")
	if v.Asked[reviewsHost].Host != reviewsHost || len(service(t, v, reviewsHost).Endpoints[0]) != 1 || y.client.Connected() {
		t.Errorf("resumed with %+v", v.Asked)
	}
	// The control plane comes back with another mesh: what was stored is asked for still.
	p.edit("127.0.10.2", "127.0.10.22")
	p.start()
	v, _ = y.answers("none.example")
	if e := service(t, v, reviewsHost).Endpoints[0]; len(e) != 1 || e[0].Address != "127.0.10.22:9080" {
		t.Errorf("endpoints %+v", e)
	}
}

// used is an adsserver.Used in memory.
type used struct {
	mu    sync.Mutex
	names []string
	noted map[string][]string
}

func (u *used) Names(namespace, name string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.names
}

func (u *used) Note(namespace, name string, hosts []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.noted == nil {
		u.noted = map[string][]string{}
	}
	u.noted[namespace+"/"+name] = hosts
}

func TestUsedHostsAreThereFromTheBeginning(t *testing.T) {
	u := &used{names: []string{reviewsHost, "gone.example", "NOT A NAME"}}
	p := newPlane(t, func(c *adsserver.Config) { c.Used = u })
	x := p.onDemand("shop/frontend", "frontend", nil)
	if v := x.next(); v.Asked[reviewsHost].Host != reviewsHost || len(v.Asked) != 2 || len(v.Services) != 1 {
		t.Errorf("first view answers %+v", v.Asked)
	}
	p.text += "\n---\n" + entryOf("new", "new.example", "127.0.10.79")
	p.store.set(build(t, p.text))
	x.client.Ask("new.example", "127.0.10.2", "nobody.example")
	x.answers("nobody.example")
	u.mu.Lock()
	defer u.mu.Unlock()
	if want := []string{"new.example", reviewsHost}; !slices.Equal(u.noted["shop/frontend"], want) {
		t.Errorf("noted %q, not %q", u.noted["shop/frontend"], want)
	}
}

func TestOldestNamesAreForgotten(t *testing.T) {
	p := newPlane(t)
	x := p.onDemand("shop/frontend", "frontend", nil)
	x.next()
	x.client.Ask("first.example")
	x.answers("first.example")
	for i := range adswire.MaxAsked - 1 {
		x.client.Ask(fmt.Sprintf("h%d.example", i))
	}
	x.until("all names", func(v *mesh.View) bool { return len(v.Asked) == adswire.MaxAsked })
	x.client.Ask("one.more.example")
	v, _ := x.answers("one.more.example")
	if _, kept := v.Asked["first.example"]; kept || len(v.Asked) != adswire.MaxAsked {
		t.Errorf("%d names, the first among them: %v", len(v.Asked), kept)
	}
	x.client.Ask("first.example")
	if v, _ := x.answers("first.example"); len(v.Asked) != adswire.MaxAsked {
		t.Errorf("%d names", len(v.Asked))
	}
}

// Of too many names those that are used stay, however long ago they were asked for.
func TestUsedNamesAreKept(t *testing.T) {
	p := newPlane(t)
	x := p.onDemand("shop/frontend", "frontend", nil)
	x.next()
	x.client.Ask(reviewsHost, "127.0.10.2", "first.example", "second.example")
	x.answers("second.example")
	for i := range adswire.MaxAsked - 4 {
		x.client.Ask(fmt.Sprintf("h%d.example", i))
	}
	v := x.until("all names", func(v *mesh.View) bool { return len(v.Asked) == adswire.MaxAsked })
	uses := x.client.Uses(v.Asked)
	uses[reviewsHost].Touch() // the address is the workload's: a name of its own
	uses["second.example"].Touch()
	x.client.Ask("one.more.example", "and.another.example")
	v, _ = x.answers("and.another.example")
	for name, want := range map[string]bool{reviewsHost: true, "second.example": true, "one.more.example": true, "127.0.10.2": false, "first.example": false, "h0.example": true} {
		if _, kept := v.Asked[name]; kept != want {
			t.Errorf("%s is kept: %v", name, kept)
		}
	}
	if x.client.Uses(v.Asked)[reviewsHost].Last() == 0 || len(v.Asked) != adswire.MaxAsked {
		t.Errorf("of %d names the use of one that was used is forgotten", len(v.Asked))
	}
}

// A change reaches those who use what changed, and the server knows who runs on it.
func TestChangeReachesItsUsersOnly(t *testing.T) {
	p := newPlane(t)
	p.text += "\n---\n" + entryOf("other", "other.example", "127.0.10.80")
	p.store.set(build(t, p.text))
	user, other, full := p.onDemand("shop/frontend", "frontend", nil), p.onDemand("shop/reviews-v1", "reviews", nil), p.proxy("bank/ledger", "ledger")
	user.next()
	other.next()
	if v := full.next(); v.Asked != nil || len(v.Peers) < 3 {
		t.Errorf("a client that never asks has answers %v and %d peers", v.Asked, len(v.Peers))
	}
	user.client.Ask("other.example")
	user.answers("other.example")
	other.client.Ask(reviewsHost)
	other.answers(reviewsHost)
	for _, node := range []string{"shop/frontend", "shop/reviews-v1", "bank/ledger"} {
		eventually(t, node+" in sync", p.inSync(node))
	}
	entry := func() *mesh.Object {
		views, _ := p.store.Watch()
		for _, o := range views.(*mesh.Snapshot).Objects() {
			if o.Name == "other" {
				return o
			}
		}
		return nil
	}
	if got := p.ads.Programmed(entry())[0]; got.Acked != 2 || got.Wanted != 2 || got.Version == "" {
		t.Errorf("programmed: %+v", got)
	}
	before := other.client.Status()
	user.refuseWith(fmt.Errorf("no"))
	p.edit("127.0.10.80", "127.0.10.81")
	eventually(t, "the full proxy in sync", func() bool { got := p.ads.Programmed(entry())[0]; return got.Acked == 1 && got.Wanted == 2 })
	user.refuseWith(nil)
	p.edit("127.0.10.81", "127.0.10.82")
	user.until("the new endpoint", func(v *mesh.View) bool {
		s := v.Service("other.example", "")
		return s != nil && s.Endpoints[0][0].Address == "127.0.10.82:80"
	})
	eventually(t, "both on it", func() bool { got := p.ads.Programmed(entry())[0]; return got.Acked == 2 && got.Wanted == 2 })
	other.quiet(before)
}
