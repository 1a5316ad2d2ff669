package upstream

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/signet-mesh/signet/proxy"
)

// maxTotal bounds the sum of a cluster's weights, so that products of it with a position fit in 64 bits.
const maxTotal = math.MaxUint32

// members are the endpoints of a cluster as they are balanced. Immutable.
type members struct {
	endpoints []*Endpoint
	// edges are the running sums of the weights, nil where all weights are equal; total is their sum (or the number).
	edges []uint64
	total uint64
	// step is coprime to total; turn*step mod total visits every unit of weight once a round.
	step uint64
}

func newCluster(spec *Spec, endpoints []*Endpoint) *Cluster {
	c := &Cluster{name: spec.Name, destination: spec.Destination, policy: spec.Policy}
	if c.destination == nil {
		c.destination = &proxy.Destination{}
	}
	c.members.Store(newMembers(endpoints))
	c.turn.Store(rand.Uint64() >> 1)
	return c
}

func newMembers(endpoints []*Endpoint) *members {
	m := &members{endpoints: endpoints, total: uint64(len(endpoints)), step: 1}
	if !weighted(endpoints) {
		return m
	}
	normalize(endpoints)
	m.total, m.edges = 0, make([]uint64, len(endpoints))
	for i, e := range endpoints {
		m.total += e.weight
		m.edges[i] = m.total
	}
	// The golden section spreads the turns of a heavy endpoint evenly over the round.
	m.step = max(uint64(float64(m.total)*0.618), 1)
	for gcd(m.step, m.total) != 1 {
		m.step++
	}
	return m
}

// weighted reports whether weights differ.
func weighted(endpoints []*Endpoint) bool {
	for _, e := range endpoints {
		if e.weight != endpoints[0].weight {
			return true
		}
	}
	return false
}

// normalize reduces the weights by their common divisor, and scales them down where their sum would be beyond maxTotal.
func normalize(endpoints []*Endpoint) {
	var divisor, sum uint64
	for _, e := range endpoints {
		divisor = gcd(e.weight, divisor)
		sum += e.weight
	}
	scale := (sum/divisor + maxTotal - 1) / maxTotal
	for _, e := range endpoints {
		e.weight = max(e.weight/divisor/max(scale, 1), 1)
	}
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Pick chooses an endpoint by the cluster's policy. Those in tried are avoided where there is another. nil means that the
// cluster has no endpoint: proxy.NoHealthyUpstream.
func (c *Cluster) Pick(tried []*Endpoint) *Endpoint {
	m := c.members.Load()
	switch {
	case len(m.endpoints) == 0:
		return nil
	case len(m.endpoints) == 1:
		return m.endpoints[0]
	case len(tried) > 0:
		if e := c.pickUntried(m, tried); e != nil {
			return e
		}
	}
	switch c.policy {
	case RoundRobin:
		return m.endpoints[m.at(c.next(m))]
	case Random:
		return m.endpoints[m.at(rand.Uint64N(m.total))]
	}
	i := m.at(rand.Uint64N(m.total))
	a := m.endpoints[i]
	// The second draw is among all others.
	share, start := uint64(1), uint64(i)
	if m.edges != nil {
		share, start = a.weight, m.edges[i]-a.weight
	}
	r := rand.Uint64N(m.total - share)
	if r >= start {
		r += share
	}
	return lighter(a, m.endpoints[m.at(r)])
}

// next is the position of the next turn.
func (c *Cluster) next(m *members) uint64 { return (c.turn.Add(1) % m.total) * m.step % m.total }

// at is the endpoint that holds the r-th unit of weight.
func (m *members) at(r uint64) int {
	if m.edges == nil {
		return int(r)
	}
	i, _ := slices.BinarySearch(m.edges, r+1)
	return i
}

// lighter is the endpoint with fewer active exchanges for its weight, a where they are equal.
func lighter(a, b *Endpoint) *Endpoint {
	if uint64(max(b.pool.active.Load(), 0))*a.weight < uint64(max(a.pool.active.Load(), 0))*b.weight {
		return b
	}
	return a
}

// pickUntried is Pick among the endpoints that are not in tried; nil if there is none.
func (c *Cluster) pickUntried(m *members, tried []*Endpoint) *Endpoint {
	if c.policy == RoundRobin {
		for range len(m.endpoints) {
			if e := m.endpoints[m.at(c.next(m))]; !among(tried, e) {
				return e
			}
		}
	}
	a := m.drawUntried(tried)
	if a == nil || c.policy != LeastRequest {
		return a
	}
	return lighter(a, m.drawUntried(tried))
}

// drawUntried draws one endpoint by weight among those not in tried; nil if there is none.
func (m *members) drawUntried(tried []*Endpoint) *Endpoint {
	var drawn *Endpoint
	var sum uint64
	for _, e := range m.endpoints {
		if among(tried, e) {
			continue
		}
		sum += e.weight
		if rand.Uint64N(sum) < e.weight {
			drawn = e
		}
	}
	return drawn
}

// among compares by pool, since a configuration that came in between made new endpoints of the same pools.
func among(tried []*Endpoint, e *Endpoint) bool {
	for _, t := range tried {
		if t.pool == e.pool {
			return true
		}
	}
	return false
}
