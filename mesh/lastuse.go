package mesh

import (
	"strings"
	"sync/atomic"
)

// LastUse is when something that was asked for was last used, by a clock that whoever asks advances. Safe for concurrent use; the nil
// *LastUse notes nothing.
type LastUse struct {
	clock *atomic.Uint64
	last  atomic.Uint64
}

// NewLastUse makes one that was never used.
func NewLastUse(clock *atomic.Uint64) *LastUse { return &LastUse{clock: clock} }

// Touch notes that it is used now. Where it was used since the clock was advanced that takes two loads.
func (u *LastUse) Touch() {
	if u == nil {
		return
	}
	if now := u.clock.Load(); u.last.Load() != now {
		u.last.Store(now)
	}
}

// Last is what the clock said when it was last used, 0 for never.
func (u *LastUse) Last() uint64 {
	if u == nil {
		return 0
	}
	return u.last.Load()
}

// UsedAs is what a call to a name with this answer is known by: the host, so that all names of a service are used when one is; the
// name where that means no host, or one with a wildcard, which may stand for any number of names.
func (a Answer) UsedAs(name string) string {
	if a.Host == "" || strings.Contains(a.Host, "*") {
		return name
	}
	return a.Host
}
