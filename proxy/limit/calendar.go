package limit

import (
	"time"

	"github.com/signet-mesh/signet/mesh/policy"
)

const day = int64(24 * time.Hour)

// window is the calendar day or month of a time, in UTC: a number that grows with time, and when it ends (Unix time in
// nanoseconds).
func window(unit policy.Limit_Unit, wall int64) (index, end int64) {
	if unit == policy.Limit_Day {
		index = wall / day
		if wall < index*day {
			index--
		}
		return index, (index + 1) * day
	}
	year, month, _ := time.Unix(0, wall).UTC().Date()
	return int64(year)*12 + int64(month) - 1, time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
}

// spend is step of a quota. When the clock was set back, the later window goes on counting: no quota is given twice.
func (s *shape) spend(old int64, now moment, m motion) (next int64, g Grant) {
	index, end := window(s.calendar, now.wall)
	reset := time.Duration(end - now.wall)
	if m.learn {
		return index<<32 | int64(m.used), Grant{Allowed: true}
	}
	used := old & (1<<32 - 1)
	if old>>32 < index {
		used = 0
	} else {
		index = old >> 32
	}
	left := int64(s.requests) - used
	if left <= 0 {
		return old, Grant{Retry: reset, Reset: reset}
	}
	// What is left is shared, rounded up: the last request of a quota is not lost because there are many proxies.
	cost := min(m.cost, left)
	return index<<32 | (used + cost), Grant{Allowed: true, Remaining: clamp((left - cost + m.cost - 1) / m.cost), Reset: reset}
}
