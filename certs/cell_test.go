package certs_test

import (
	"sync"
	"testing"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
)

func TestCell(t *testing.T) {
	var c certs.Cell
	before, replaced := c.Watch()
	if before == nil || before.SVID != nil || before != c.Current() {
		t.Fatalf("empty cell holds %v", before)
	}
	select {
	case <-replaced:
		t.Fatal("replaced before any Set")
	default:
	}
	ca := certtest.NewCA(t, "cluster.local")
	trusted := bundles(ca)
	after := c.Set(ca.SVID(t, workload), trusted)
	<-replaced
	if c.Current() != after || after.Generation <= before.Generation {
		t.Errorf("generation %d after %d", after.Generation, before.Generation)
	}
	delete(trusted, "cluster.local")
	if c.Current().Bundles["cluster.local"] == nil {
		t.Error("snapshot shares the caller's map")
	}
}

// A watcher that always waits on the channel of the snapshot it got sees the last one.
func TestCellWatchersMissNothing(t *testing.T) {
	const last = 500
	var c certs.Cell
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for before := uint64(0); ; {
				s, replaced := c.Watch()
				if s.Generation < before {
					t.Errorf("generation went from %d back to %d", before, s.Generation)
				}
				if before = s.Generation; before == last {
					return
				}
				<-replaced
			}
		})
	}
	for range last {
		c.Set(nil, nil)
	}
	wg.Wait()
}
