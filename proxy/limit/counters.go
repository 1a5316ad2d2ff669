package limit

import "sync/atomic"

// stripes is over how many cache lines counts are spread, so that counting does not make cores wait for each other.
const stripes = 8

// counts are what became of the requests that a rule was for.
type counts struct {
	allowed, refused, shadowed, alone atomic.Uint64
	_                                 [32]byte
}

type counters [stripes]counts

// add counts one request. The stripe is chosen by the clock's last digits, as random as need be and already at hand.
func (c *counters) add(now moment, g Grant, shadow, alone bool) {
	at := &c[(uint64(now.mono>>unitShift)^uint64(now.mono>>(unitShift+4)))%stripes]
	switch {
	case g.Allowed:
		at.allowed.Add(1)
	case shadow:
		at.shadowed.Add(1)
	default:
		at.refused.Add(1)
	}
	if alone {
		at.alone.Add(1)
	}
}

func (c *counters) fill(s *Status) {
	for i := range c {
		s.Allowed += c[i].allowed.Load()
		s.Refused += c[i].refused.Load()
		s.Shadowed += c[i].shadowed.Load()
		s.Alone += c[i].alone.Load()
	}
}
