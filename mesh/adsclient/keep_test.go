package adsclient_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
)

// shelf is a Store in memory.
type shelf struct {
	mu     sync.Mutex
	kept   []byte
	broken error
}

func (s *shelf) Load() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept, s.broken
}

func (s *shelf) Save(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.kept = bytes.Clone(b)
	}
	return s.broken
}

// kept starts the client of a node that keeps its configuration on a shelf.
func (p *plane) kept(node, serviceAccount string, on *shelf) *proxy {
	p.t.Helper()
	ns, name, _ := strings.Cut(node, "/")
	svid := p.ca.SVID(p.t, "spiffe://"+trustDomain+"/ns/"+ns+"/sa/"+serviceAccount)
	x := &proxy{t: p.t, source: certtest.NewSource(svid, p.ca.Bundle()), views: make(chan *mesh.View, 100)}
	var err error
	x.client, err = adsclient.New(adsclient.Config{
		Addr: p.addr, Source: x.source, Server: p.id, Namespace: ns, Workload: name, Log: discard(), Apply: x.apply, Store: on,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	x.run()
	p.t.Cleanup(func() { x.halt() })
	return x
}

func TestStoredConfigurationSurvivesARestartWithoutTheControlPlane(t *testing.T) {
	p, on := newPlane(t), &shelf{}
	first := p.kept("shop/frontend", "frontend", on)
	before := first.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	generation := first.client.Status().Generation
	first.halt()
	p.halt()

	second := p.kept("shop/frontend", "frontend", on)
	after := second.next()
	if len(after.Objects) != len(before.Objects) || len(after.VirtualServices) != 1 || after.Self.ID != before.Self.ID {
		t.Errorf("resumed with %d objects of %d, %+v", len(after.Objects), len(before.Objects), after.Self)
	}
	if eps := service(t, after, reviewsHost).Endpoints[0]; len(eps) != 1 || eps[0].Address != "127.0.10.2:9080" {
		t.Errorf("resumed with endpoints %+v", eps)
	}
	eventually(t, "the generation of before", func() bool { return second.client.Status().Generation == generation })
	if s := second.client.Status(); s.Connected || s.Resources != 0 {
		t.Errorf("status is %+v", s)
	}

	// When the control plane is back, it is told what is held and sends nothing.
	p.start()
	eventually(t, "in sync again", p.inSync("shop/frontend"))
	if s := second.client.Status(); s.Resources != 0 {
		t.Errorf("%d resources were sent for what is held already", s.Resources)
	}
	p.edit("subset: v1", "subset: v2")
	second.next()
}

func TestStoredConfigurationThatIsNoneOfOursIsNotUsed(t *testing.T) {
	p, on := newPlane(t), &shelf{}
	x := p.kept("shop/frontend", "frontend", on)
	x.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	x.halt()
	good, _ := on.Load()
	flipped := bytes.Clone(good)
	flipped[bytes.Index(flipped, []byte("127.0.10.2"))+7] = '9'
	for name, tc := range map[string]struct {
		node, sa string
		on       *shelf
	}{
		"another workload's": {"bank/ledger", "ledger", &shelf{kept: good}},
		"changed":            {"shop/frontend", "frontend", &shelf{kept: flipped}},
		"cut off":            {"shop/frontend", "frontend", &shelf{kept: good[:len(good)-20]}},
		"without its end":    {"shop/frontend", "frontend", &shelf{kept: good[:10]}},
		"empty":              {"shop/frontend", "frontend", &shelf{kept: []byte{}}},
		"longer":             {"shop/frontend", "frontend", &shelf{kept: append(bytes.Clone(good), 'x')}},
		"unreadable":         {"shop/frontend", "frontend", &shelf{broken: errors.New("disk")}},
	} {
		t.Run(name, func(t *testing.T) {
			x := p.kept(tc.node, tc.sa, tc.on)
			x.next()
			eventually(t, "in sync", p.inSync(tc.node))
			x.halt()
			if s := x.client.Status(); s.Generations != 1 || s.Resources == 0 {
				t.Errorf("status is %+v: want one configuration, all of it from the control plane", s)
			}
		})
	}
}

func TestRefusedConfigurationIsNotStored(t *testing.T) {
	p, on := newPlane(t), &shelf{}
	x := p.kept("shop/frontend", "frontend", on)
	x.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	good, _ := on.Load()
	x.refuseWith(errors.New("does not compile"))
	p.edit("subset: v1", "subset: v2")
	eventually(t, "refused", func() bool { return x.client.Status().NACKs > 0 })
	if now, _ := on.Load(); !bytes.Equal(now, good) {
		t.Error("what was refused was stored")
	}
}
