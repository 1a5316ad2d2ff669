package telemetry

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/signet-mesh/signet/proxy"
)

const (
	// maxSeries bounds the sets of labels; exchanges beyond it are counted under unknown parties.
	maxSeries = 4096
	// maxOutcomes bounds the outcomes that are remembered of one pair without a lock.
	maxOutcomes = 64
)

// book finds the series of a record. Known ones are found without a lock: by the pointers of the pair in a map that is
// replaced as a whole when one is added, then by the outcome in a short list that is replaced likewise.
type book struct {
	pairs atomic.Pointer[map[pairKey]*pair]

	limit int // of series; of pairs that are remembered twice as many, beyond which the memory starts anew

	mu       sync.Mutex // guards series, and every replacement of a map or a list
	series   map[seriesKey]*series
	overflow atomic.Uint64
}

type pairKey struct {
	source, destination *proxy.Party
	service             *proxy.Destination
	side                proxy.Side
	security            proxy.Security
	tcp                 bool
}

type pair struct{ outcomes atomic.Pointer[[]outcome] }

type outcome struct {
	status   int
	flag     string
	deniedBy string
	series   *series
}

func newBook(limit int) *book {
	b := &book{limit: limit, series: map[seriesKey]*series{}}
	b.pairs.Store(&map[pairKey]*pair{})
	return b
}

// find is the series of a record with that status and flag.
func (b *book) find(rec *proxy.Record, status int, flag string) *series {
	if status < 100 || status > 599 || rec.TCP {
		status = 0
	}
	if flag == "" {
		flag = "-"
	}
	k := pairKey{rec.Source, rec.Destination, rec.Service, rec.Side, rec.Security, rec.TCP}
	if p := (*b.pairs.Load())[k]; p != nil {
		if s := p.find(status, flag, rec.DeniedBy); s != nil {
			return s
		}
	}
	return b.enter(rec, k, status, flag)
}

func (p *pair) find(status int, flag, deniedBy string) *series {
	known := *p.outcomes.Load()
	for i := range known {
		if o := &known[i]; o.status == status && o.flag == flag && o.deniedBy == deniedBy {
			return o.series
		}
	}
	return nil
}

// enter resolves what find does not know yet, and remembers it.
func (b *book) enter(rec *proxy.Record, k pairKey, status int, flag string) *series {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.resolve(newSeriesKey(rec, status, flag))
	pairs := *b.pairs.Load()
	p := pairs[k]
	if p == nil {
		next := map[pairKey]*pair{}
		if len(pairs) < 2*b.limit {
			next = maps.Clone(pairs)
		}
		p = &pair{}
		p.outcomes.Store(&[]outcome{})
		next[k] = p
		b.pairs.Store(&next)
	}
	if known := *p.outcomes.Load(); len(known) < maxOutcomes && p.find(status, flag, rec.DeniedBy) == nil {
		next := append(slices.Clone(known), outcome{status, strings.Clone(flag), rec.DeniedBy, s})
		p.outcomes.Store(&next)
	}
	return s
}

// resolve is the series of that identity, made if there is room. b.mu is held.
func (b *book) resolve(k seriesKey) *series {
	if s := b.series[k]; s != nil {
		return s
	}
	if len(b.series) >= b.limit {
		b.overflow.Add(1)
		k = seriesKey{side: k.side, tcp: k.tcp, flag: "-"} // four of them at most
		if s := b.series[k]; s != nil {
			return s
		}
	}
	k.flag = strings.Clone(k.flag) // a record only lends it
	s := &series{key: k}
	b.series[k] = s
	return s
}

// all lists the series of the moment.
func (b *book) all() []*series {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.series))
}

// retain drops the series of others, and forgets all pointers.
func (b *book) retain(parties []*proxy.Party, services []*proxy.Destination) {
	live := map[proxy.Party]bool{{}: true}
	for _, p := range parties {
		bare := *p
		bare.Principal = "" // a series on plaintext has none
		live[bare] = true
	}
	wanted := map[proxy.Destination]bool{}
	for _, d := range services {
		wanted[*d] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.series, func(k seriesKey, _ *series) bool {
		k.source.Principal, k.destination.Principal = "", ""
		return !live[k.source] || !live[k.destination] || !(wanted[k.service] || standing(k.service.Service))
	})
	b.pairs.Store(&map[pairKey]*pair{})
}

// standing reports a service that is of no configuration.
func standing(service string) bool {
	return service == "" || service == unknown || service == "PassthroughCluster" || service == "BlackHoleCluster"
}
