package limit

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
)

const byCaller = `{"headers":[{"name":"x-caller","type":"Distinct"}]}`

func from(name string) *authz.Request {
	r := get("/")
	r.Headers = fields{"x-caller", name}
	return r
}

// TestKeysAreApart: each caller has its own bucket, and gets all of it while the table grows under it.
func TestKeysAreApart(t *testing.T) {
	for _, limit := range []string{`"requests":5,"unit":"Hour"`, `"requests":5,"unit":"Month"`} {
		s := compiled(t, NewRegistry(newHand().now), local(byCaller, limit))
		const keys = 8000
		got := make([]atomic.Int64, keys)
		var group sync.WaitGroup
		for g := range 8 {
			group.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 2))
				for _, i := range random.Perm(keys) {
					got[i].Add(int64(passed(t, s, caller(t, ""), from(fmt.Sprint(i)), 2)))
				}
			})
		}
		group.Wait()
		for i := range got {
			if got[i].Load() != 5 {
				t.Fatalf("%s: caller %d: %d passed of 16, want 5", limit, i, got[i].Load())
			}
		}
		if st := s.Status()[0]; st.Keys != keys || st.Evictions != 0 || st.Slots < keys || st.Slots > 8*keys || st.Allowed != 5*keys || st.Refused != 11*keys {
			t.Errorf("%s: %+v", limit, st)
		}
	}
}

// TestMillionKeys: the table stays within its bound, and a flood of keys gives nobody a second bucket.
func TestMillionKeys(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	keys, shape := newTable(MaxKeys), newShape(&Bucket{Requests: 5, Burst: 5, Period: time.Hour})
	seed, now := maphash.MakeSeed(), moment{}
	take := func(i int) bool {
		return keys.take(maphash.Comparable(seed, i), &shape, now, motion{cost: 1}).Allowed
	}
	for i := range 1000 {
		for n := range 7 {
			if take(i) != (n < 5) {
				t.Fatalf("key %d, request %d: %v", i, n, n >= 5)
			}
		}
	}
	refused := 0
	for i := 1000; i < 1000000; i++ {
		if !take(i) {
			refused++
		}
	}
	for i := range 1000 {
		if take(i) {
			t.Fatalf("key %d passed a sixth time", i)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	n, slots, evictions := keys.size()
	if slots > MaxKeys || n > slots || n < MaxKeys*9/10 || evictions > MaxKeys/10 || refused > 0 {
		t.Errorf("%d keys in %d slots, %d evictions, %d first requests refused", n, slots, evictions, refused)
	}
	if used := after.HeapAlloc - before.HeapAlloc; used > 17<<20 {
		t.Errorf("%d bytes for a million keys, want 16 each", used)
	}
	now.mono = int64(2*time.Hour) << unitShift
	for i := 2000000; i < 2500000; i++ {
		take(i)
	}
	if _, _, again := keys.size(); again != evictions {
		t.Errorf("%d evictions while buckets are full again", again-evictions)
	}
	runtime.KeepAlive(keys)
}

// TestFloodGivesNothing: in a table that is far too small no key ever gets more than its limit, and refusals evict nothing.
func TestFloodGivesNothing(t *testing.T) {
	for _, b := range []Bucket{{Requests: 5, Burst: 5, Period: time.Hour}, {Requests: 5, Calendar: 4}} {
		keys, shape := newTable(1), newShape(&b)
		seed, random := maphash.MakeSeed(), rand.New(rand.NewPCG(1, 3))
		got := map[int]int{}
		for range 200000 {
			i := random.IntN(4000)
			if keys.take(maphash.Comparable(seed, i), &shape, moment{}, motion{cost: 1}).Allowed {
				got[i]++
			}
		}
		total := 0
		for i, n := range got {
			total += n
			if n > 5 {
				t.Errorf("key %d: %d passed, want at most 5", i, n)
			}
		}
		_, slots, evictions := keys.size()
		if slots != shardCount*groupSlots || evictions == 0 || total > 5*slots {
			t.Errorf("%d passed, %d slots, %d evictions", total, slots, evictions)
		}
	}
}

// TestFewKeysAreCheap: a rule with a handful of keys has a handful of slots.
func TestFewKeysAreCheap(t *testing.T) {
	s := compiled(t, NewRegistry(newHand().now), local(byCaller, `"requests":5,"unit":"Hour"`))
	if st := s.Status()[0]; st.Slots != 0 {
		t.Errorf("no key yet, and %d slots", st.Slots)
	}
	for i := range 10 {
		passed(t, s, caller(t, ""), from(fmt.Sprint(i)), 1)
	}
	if st := s.Status()[0]; st.Keys != 10 || st.Slots > 10*groupSlots {
		t.Errorf("%+v", st)
	}
}

// TestSlotsComeBack: buckets that are full again make room, so the table does not grow for callers that come and go.
func TestSlotsComeBack(t *testing.T) {
	clock := newHand()
	s := compiled(t, NewRegistry(clock.now), local(byCaller, `"requests":1,"unit":"Second"`))
	for i := range 100000 {
		if passed(t, s, caller(t, ""), from(fmt.Sprint(i)), 2) != 1 {
			t.Fatalf("caller %d", i)
		}
		clock.add(100 * time.Millisecond)
	}
	if st := s.Status()[0]; st.Slots > shardCount*groupSlots || st.Evictions != 0 {
		t.Errorf("%+v", st)
	}
}
