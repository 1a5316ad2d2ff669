package limit

import (
	"math"
	"math/bits"
	"time"

	"github.com/signet-mesh/signet/mesh/policy"
)

// Time of a GCRA limit is counted in sixteenths of a nanosecond: fine enough that 16 million requests a second are exact to
// 0.1 %, coarse enough that an int64 holds 18 years of uptime.
const (
	unitShift = 4
	// longestRefill bounds burst / rate, 4.5 years, so that nothing overflows; a larger burst is cut to it.
	longestRefill = int64(1) << 61
)

// States that no request leaves behind.
const (
	frozen = math.MinInt64     // the slot is being given away, or its table was outgrown
	fresh  = math.MinInt64 + 1 // nothing was taken yet
)

// moment is when a request is judged.
type moment struct {
	mono int64 // since the registry was made, in 1/16 ns
	wall int64 // Unix time in nanoseconds; 0 where no rule is a quota
}

// motion is what is done to a state: one request is spent, or a quota learns from the store how much of it is used.
type motion struct {
	// cost is how many requests one request counts for: 1, or while the store is away the number of proxies that share the
	// limit, each of which is taken to let as many through.
	cost  int64
	learn bool
	used  uint32
}

// shape is how a limit moves its state, one int64 either way: of a GCRA limit the theoretical arrival time (when the
// bucket is full again), of a quota the window's number and below it, in 32 bits, how much is used. Immutable.
type shape struct {
	requests uint32
	calendar policy.Limit_Unit // Day, Month; else 0
	period   time.Duration
	// increment is what one request adds to the arrival time, rounded up so that the rate is never exceeded; tolerance how
	// far it may be ahead of the clock: the burst.
	increment, tolerance int64
}

func newShape(b *Bucket) shape {
	s := shape{requests: b.Requests, calendar: b.Calendar, period: b.Period}
	if s.requests == 0 || s.calendar != 0 {
		return s
	}
	n := int64(s.requests)
	s.increment = (int64(s.period)<<unitShift + n - 1) / n
	s.tolerance = longestRefill
	if high, low := bits.Mul64(uint64(s.increment), uint64(max(b.Burst, 1))); high == 0 && low < uint64(longestRefill) {
		s.tolerance = int64(low)
	}
	return s
}

// step judges one request. next is the state to write; where it is old, or the request is refused, nothing is written.
func (s *shape) step(old int64, now moment, m motion) (next int64, g Grant) {
	switch {
	case s.requests == 0:
		return old, Grant{Retry: s.never(now), Reset: s.never(now)}
	case s.calendar != 0:
		return s.spend(old, now, m)
	}
	increment, tolerance := s.increment, s.tolerance
	if m.cost != 1 {
		// A share is never less than one request in a period, however many share.
		increment = min(increment*m.cost, int64(s.period)<<unitShift)
		tolerance = max(tolerance, increment)
	}
	next = max(old, now.mono) + increment
	ahead := next - now.mono
	if ahead > tolerance {
		return old, Grant{Retry: nanoseconds(ahead - tolerance), Reset: nanoseconds(ahead - increment)}
	}
	return next, Grant{Allowed: true, Remaining: clamp((tolerance - ahead) / increment), Reset: nanoseconds(ahead)}
}

// left is what step would say of a state if nothing were asked of it.
func (s *shape) left(old int64, now moment) Grant {
	_, g := s.step(old, now, motion{cost: 1})
	if g.Allowed {
		g.Remaining = clamp(int64(g.Remaining) + 1)
		if s.calendar == 0 {
			g.Reset -= nanoseconds(s.increment)
		}
	}
	return g
}

// expired reports whether a state is as good as fresh.
func (s *shape) expired(state int64, now moment) bool {
	if s.calendar != 0 {
		index, _ := window(s.calendar, now.wall)
		return state>>32 < index
	}
	return state <= now.mono
}

// never is how long a limit of no requests asks to wait.
func (s *shape) never(now moment) time.Duration {
	if s.calendar != 0 {
		_, end := window(s.calendar, now.wall)
		return time.Duration(end - now.wall)
	}
	return max(s.period, time.Second)
}

// units bounds what a clock may say to 9 years before and after the registry was made.
func units(d time.Duration) int64 { return min(max(int64(d), -1<<58), 1<<58) << unitShift }

func nanoseconds(units int64) time.Duration {
	return time.Duration((units + 1<<unitShift - 1) >> unitShift)
}

func clamp(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
