package adsserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/signet-mesh/signet/mesh/adswire"
)

const (
	service = "networking.istio.io/v1/ServiceEntry"
	route   = "networking.istio.io/v1/VirtualService"
)

// want is a set of resources written TYPE:NAME=VERSION, and its marker.
func want(t *testing.T, resources ...string) (*adswire.Set, adswire.Marker) {
	t.Helper()
	set := &adswire.Set{}
	for _, s := range resources {
		typ, rest, _ := strings.Cut(s, ":")
		name, version, _ := strings.Cut(rest, "=")
		var err error
		set, err = set.With(typ, []adswire.Resource{{Type: typ, Name: name, Version: version, Body: &anypb.Any{}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	return set, set.Marker("td", "ns/w")
}

func subscribed() push {
	p := newPush()
	for _, typ := range append(adswire.Types(), adswire.GenerationType) {
		p.subscribe(typ, nil)
	}
	return p
}

// drain is what may be sent now, as TYPE+n-m, with the nonces by type.
func drain(p *push) (out []string, nonces map[string]string) {
	nonces = map[string]string{}
	for {
		s, nonce, ok := p.next()
		if !ok {
			return out, nonces
		}
		out = append(out, fmt.Sprintf("%s+%d-%d", s.Type, len(s.Changed), len(s.Removed)))
		nonces[s.Type] = nonce
	}
}

func begin(t *testing.T, p *push, resources ...string) (held bool) {
	t.Helper()
	set, m := want(t, resources...)
	held, err := p.begin(set, m)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func ackAll(t *testing.T, p *push, nonces map[string]string) {
	t.Helper()
	for typ, n := range nonces {
		if !p.ack(typ, n) {
			t.Fatalf("the acknowledgement of %s was not taken", typ)
		}
	}
}

func check(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("sent %q, not %q", got, want)
	}
}

func TestPushIsAckedByItsMarker(t *testing.T) {
	p := subscribed()
	begin(t, &p, service+":a=1", route+":r=1")
	got, nonces := drain(&p)
	check(t, got, service+"+1-0", route+"+1-0", adswire.GenerationType+"+1-0")
	if p.idle() || p.acked != "" {
		t.Error("unanswered, it is idle or acknowledged")
	}
	p.ack(service, nonces[service])
	p.ack(route, nonces[route])
	if p.acked != "" {
		t.Error("acknowledged without the marker")
	}
	p.ack(adswire.GenerationType, nonces[adswire.GenerationType])
	if !p.idle() || p.acked != p.target {
		t.Error("answered, it is not idle or not acknowledged")
	}
}

// TestRemovalWaitsForTheAnswer: one unanswered response a type, and removals after additions.
func TestRemovalWaitsForTheAnswer(t *testing.T) {
	p := subscribed()
	begin(t, &p, service+":a=1")
	_, nonces := drain(&p)
	ackAll(t, &p, nonces)
	begin(t, &p, service+":b=1", route+":r=1")
	got, nonces := drain(&p)
	check(t, got, service+"+1-0", route+"+1-0")
	if p.ack(service, "another nonce") {
		t.Error("an acknowledgement with another nonce was taken")
	}
	p.ack(service, nonces[service])
	got, _ = drain(&p)
	check(t, got, service+"+0-1", adswire.GenerationType+"+1-0")
}

func TestRefusedIsNotSentAgainUntilItChanges(t *testing.T) {
	p := subscribed()
	begin(t, &p, service+":a=1", route+":r=bad")
	_, nonces := drain(&p)
	p.ack(service, nonces[service])
	if !p.nack(route, nonces[route]) {
		t.Error("the refusal is no news")
	}
	if p.nack(adswire.GenerationType, nonces[adswire.GenerationType]) {
		t.Error("the refusal of the marker that follows is news")
	}
	if !p.idle() {
		t.Fatal("answered, it is not idle")
	}
	if held := begin(t, &p, service+":a=2", route+":r=bad"); !held {
		t.Error("what was refused is sent again")
	}
	if got, _ := drain(&p); len(got) > 0 {
		t.Errorf("sent %q", got)
	}
	if held := begin(t, &p, service+":a=2", route+":r=good"); held {
		t.Error("the fix is held back")
	}
	got, nonces := drain(&p)
	check(t, got, service+"+1-0", route+"+1-0", adswire.GenerationType+"+1-0")
	ackAll(t, &p, nonces)
	if p.acked != p.target || len(p.refused) != 0 {
		t.Errorf("acked %q of %q, %d refused", p.acked, p.target, len(p.refused))
	}
}

func TestRevertAfterRefusalIsInSync(t *testing.T) {
	p := subscribed()
	begin(t, &p, route+":r=1")
	_, nonces := drain(&p)
	ackAll(t, &p, nonces)
	begin(t, &p, route+":r=bad")
	_, nonces = drain(&p)
	p.nack(route, nonces[route])
	p.nack(adswire.GenerationType, nonces[adswire.GenerationType])
	begin(t, &p, route+":r=1")
	if got, _ := drain(&p); len(got) > 0 || p.acked != p.target {
		t.Errorf("sent %q, acked %q of %q", got, p.acked, p.target)
	}
}

func TestTypeNotSubscribedIsNotSentButMarked(t *testing.T) {
	p := newPush()
	p.subscribe(service, nil)
	if p.idle() {
		t.Error("ready before the marker was subscribed to")
	}
	p.subscribe(adswire.GenerationType, nil)
	set, m := want(t, service+":a=1", route+":r=1")
	if _, err := p.begin(set, m); err != nil {
		t.Fatal(err)
	}
	got, _ := drain(&p)
	check(t, got, service+"+1-0", adswire.GenerationType+"+1-0")
	if m.Types[route] == "" {
		t.Error("the marker does not name the type that was left out")
	}
}

func TestInitialVersionsAreNotSent(t *testing.T) {
	p := subscribed()
	set, m := want(t, service+":a=1", route+":r=1")
	p.subscribe(service, map[string]string{"a": "1"})
	p.subscribe(route, map[string]string{"r": "0", "old": "1"})
	if _, err := p.begin(set, m); err != nil {
		t.Fatal(err)
	}
	got, _ := drain(&p)
	check(t, got, route+"+1-0")
	p = subscribed()
	p.subscribe(service, set.Versions(service))
	p.subscribe(route, set.Versions(route))
	p.subscribe(adswire.GenerationType, map[string]string{adswire.GenerationName: m.Generation()})
	if _, err := p.begin(set, m); err != nil {
		t.Fatal(err)
	}
	if got, _ := drain(&p); len(got) > 0 || p.acked != m.Generation() {
		t.Errorf("a proxy that has everything is sent %q, acked %q", got, p.acked)
	}
}
