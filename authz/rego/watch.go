package rego

import (
	"sync/atomic"
	"time"
)

// watch ends one evaluation when its time is up. Its timer is one entry in the runtime's heap of timers: no goroutine
// and no context for each evaluation. It implements topdown.Cancel.
type watch struct {
	timer *time.Timer
	fired atomic.Bool
}

// Cancel implements topdown.Cancel.
func (w *watch) Cancel() { w.fired.Store(true) }

// Cancelled implements topdown.Cancel.
func (w *watch) Cancelled() bool { return w.fired.Load() }

// watch starts the clock of one evaluation.
func (p *Policy) watch() *watch {
	if w, ok := p.watches.Get().(*watch); ok {
		w.timer.Reset(p.timeout)
		return w
	}
	w := &watch{}
	w.timer = time.AfterFunc(p.timeout, w.Cancel)
	return w
}

// release stops it. A watch whose timer has fired, or is just about to, is not used again: it could end somebody else's
// evaluation.
func (p *Policy) release(w *watch) {
	if w.timer.Stop() {
		p.watches.Put(w)
	}
}
