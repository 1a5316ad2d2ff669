package decisionlog

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/signet-mesh/signet/authz/rego/service"
)

// Run sends events until ctx ends, then for at most DrainTime what is still there; it returns nil. A chunk goes when it is
// full, and otherwise after the delay of the spec. A chunk whose answer was lost is sent again: a decision may arrive twice,
// under the same decision_id.
func (r *Reporter) Run(ctx context.Context) error {
	defer r.client.Close()
	work, stop := outlive(ctx, DrainTime)
	defer stop()
	timer := time.NewTimer(r.delays.Next())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			r.drain(work)
			return nil
		case e := <-r.queue.events:
			r.take(work, e)
		case <-timer.C:
			r.flush(work)
			timer.Reset(r.delays.Next())
		}
	}
}

// outlive is a context that ends d after ctx, so that what is under way then may be finished.
func outlive(ctx context.Context, d time.Duration) (context.Context, func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, func() {
		service.Sleep(work, d)
		cancel()
	})
	return work, func() { release(); cancel() }
}

// drain sends what is left, and counts as dropped what it could not send.
func (r *Reporter) drain(ctx context.Context) {
	for n := len(r.queue.events); n > 0 && ctx.Err() == nil; n-- { // not for ever, if others go on
		select {
		case e := <-r.queue.events:
			r.take(ctx, e)
		default:
		}
	}
	r.flush(ctx)
	r.queue.drop(r.inside + r.filling.events)
	for {
		select {
		case <-r.queue.events:
			r.queue.drop(1)
		default:
			return
		}
	}
}

// take encodes an event into the chunk that is filling, and uploads that when it is full.
func (r *Reporter) take(ctx context.Context, e *Event) {
	data, err := r.encode(ctx, e)
	if err != nil {
		r.lose(err)
		return
	}
	fits, err := r.filling.add(data)
	if !fits && err == nil {
		r.flush(ctx)
		fits, err = r.filling.add(data)
	}
	switch {
	case err != nil:
		r.lose(err)
	case !fits: // the time to drain is over
		r.queue.drop(1)
	}
}

func (r *Reporter) lose(err error) {
	r.queue.drop(1)
	r.complain("decision is not logged", err)
}

// flush uploads what there is.
func (r *Reporter) flush(ctx context.Context) {
	r.upload(ctx)
	if r.sealed != nil || r.filling.events == 0 {
		return
	}
	data, n, err := r.filling.seal()
	if err != nil {
		r.queue.drop(n)
		r.complain("decisions are not logged", err)
		return
	}
	r.sealed, r.inside = data, n
	r.upload(ctx)
}

// upload sends the sealed chunk, again and again until the server takes it, refuses it for good, or ctx ends; then it is
// still there.
func (r *Reporter) upload(ctx context.Context) {
	for failures := 1; r.sealed != nil && ctx.Err() == nil; failures++ {
		status, err := r.post(ctx)
		switch {
		case err == nil:
			r.sent.Add(uint64(r.inside))
			r.chunks.Add(1)
			if r.failing {
				r.failing = false
				r.cfg.Log.Info("decisions are uploaded again", "policy", r.cfg.Name)
			}
			r.sealed, r.inside = nil, 0
			return
		case ctx.Err() != nil:
			return
		}
		r.failed.Add(1)
		r.complain("decisions are not uploaded", err)
		if hopeless(status) {
			r.queue.drop(r.inside)
			r.sealed, r.inside = nil, 0
			return
		}
		service.Sleep(ctx, service.Backoff(failures, MaxRetry))
	}
}

// hopeless is for answers that say something about this chunk, which will not become better: sending it again would hold up
// those after it. Others, 401 and 404 among them, are about the server and how it is set up.
func hopeless(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// post makes one attempt. A redirect is a failure: followed, a POST may become a GET that succeeds and stores nothing.
func (r *Reporter) post(ctx context.Context) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, UploadTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(r.sealed))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer service.Discard(resp.Body)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.StatusCode, fmt.Errorf("uploading decisions: server answered %q", resp.Status)
	}
	return resp.StatusCode, nil
}

// complain logs the first of a row of failures; the counters have them all.
func (r *Reporter) complain(what string, err error) {
	if !r.failing {
		r.failing = true
		r.cfg.Log.Warn(what, "policy", r.cfg.Name, "error", err)
	}
}
