package jwks

import "time"

// SetTimes shortens RefreshGap and RefreshWait for a Remote that nobody uses yet.
func (r *Remote) SetTimes(gap, wait time.Duration) { r.gap, r.wait = gap, wait }

// Interval is when an answer says to ask again.
var Interval = interval
