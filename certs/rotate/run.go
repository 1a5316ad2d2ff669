package rotate

import (
	"context"
	"crypto/x509"
	"math/rand/v2"
	"time"

	"github.com/signet-mesh/signet/certs"
)

const (
	retryFirst   = 200 * time.Millisecond
	retryMax     = 15 * time.Second
	attemptMin   = 2 * time.Second
	attemptMax   = 15 * time.Second
	wallClockGap = time.Minute // longest sleep: timers stand still while a machine sleeps, certificates age
)

// Run takes what the store holds into use, then renews until ctx ends, and returns nil. Failures are retried for ever; a
// certificate in use is only ever replaced by its successor. Run may be called once.
func (r *Rotator) Run(ctx context.Context) error {
	r.resume()
	next := r.now()
	if s := r.cell.Current().SVID; s != nil {
		next = renewalTime(s.Leaf(), rand.Float64())
	}
	for failures := 0; ; {
		r.update(func(s *Status) { s.NextAttempt = next })
		if !r.waitUntil(ctx, next) {
			return nil
		}
		r.update(func(s *Status) { s.NextAttempt = time.Time{} })
		err := r.renew(ctx)
		if ctx.Err() != nil {
			return nil
		}
		current := r.cell.Current()
		if err != nil {
			failures++
			wait := backOff(failures, r.left(current), rand.Float64())
			next = r.now().Add(wait)
			r.failed(err, failures, wait, current)
			continue
		}
		failures = 0
		r.update(func(s *Status) { s.LastError, s.Failures, s.Renewals = nil, 0, s.Renewals+1 })
		next = renewalTime(current.SVID.Leaf(), rand.Float64())
		if soonest := r.now().Add(max(retryFirst, r.left(current)/10)); next.Before(soonest) {
			next = soonest // a CA whose clock is behind ours must not be asked without pause
		}
	}
}

func (r *Rotator) failed(err error, failures int, wait time.Duration, current *certs.Snapshot) {
	r.update(func(s *Status) { s.LastError, s.Failures = err, failures })
	log := r.cfg.Log.With("error", err, "failures", failures, "retry_in", wait.Round(time.Millisecond))
	switch left := r.left(current); {
	case current.SVID == nil:
		log.Warn("getting the first certificate failed")
	case left == 0:
		log.Error("certificate has expired and renewing it failed", "id", current.SVID.ID.String())
	default:
		log.Warn("renewing the certificate failed", "id", current.SVID.ID.String(), "valid_for", left.Round(time.Second))
	}
}

// resume takes over from the store what is still good: a valid certificate at once, else at least the join key.
func (r *Rotator) resume() {
	if r.cfg.Store == nil {
		return
	}
	stored, err := r.cfg.Store.Load()
	if err != nil {
		r.cfg.Log.Error("stored identity can't be used, starting without it", "error", err)
		return
	}
	if stored == nil {
		return
	}
	r.joinKey = stored.JoinKey
	if stored.Key == nil {
		return
	}
	svid, bundle, err := r.judge(&certs.Issued{Chain: stored.Chain, Roots: stored.Roots}, stored.Key)
	if err != nil {
		r.cfg.Log.Warn("stored certificate is not used", "error", err)
		if certs.ReasonOf(err) == certs.UnexpectedIdentity {
			r.joinKey = nil // somebody else's state
		}
		return
	}
	r.swap(svid, bundle)
}

// save keeps going without a disk: a certificate in memory is better than none.
func (r *Rotator) save(s *Stored) {
	if r.cfg.Store == nil {
		return
	}
	if err := r.cfg.Store.Save(s); err != nil {
		r.cfg.Log.Error("storing the identity failed, it is kept in memory only", "error", err)
	}
}

// waitUntil waits for a time of the wall clock. It is false when ctx ended.
func (r *Rotator) waitUntil(ctx context.Context, t time.Time) bool {
	for {
		d := t.Sub(r.now())
		if d <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(d, wallClockGap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// renewalTime is half the lifetime, give or take a tenth of that half, so that a fleet that started together does not
// renew together. jitter is in [0,1).
func renewalTime(leaf *x509.Certificate, jitter float64) time.Time {
	half := leaf.NotAfter.Sub(leaf.NotBefore) / 2
	return leaf.NotBefore.Add(half + time.Duration((jitter*2-1)*float64(half)/10))
}

// backOff doubles from retryFirst to retryMax, is at most a tenth of what is left of a valid certificate (but never
// below retryFirst), and is then drawn from its upper half. jitter is in [0,1).
func backOff(failures int, left time.Duration, jitter float64) time.Duration {
	d := retryFirst
	for range failures - 1 {
		if d *= 2; d >= retryMax {
			d = retryMax
			break
		}
	}
	if left > 0 {
		d = min(d, max(left/10, retryFirst))
	}
	return d/2 + time.Duration(jitter*float64(d)/2)
}

// attemptTimeout leaves time for two further attempts before a valid certificate ends.
func attemptTimeout(left time.Duration) time.Duration {
	if left <= 0 {
		return attemptMax
	}
	return min(attemptMax, max(attemptMin, left/3))
}
