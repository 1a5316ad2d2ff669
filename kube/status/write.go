package status

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/signet-mesh/signet/mesh"
)

const (
	// fieldManager is who writes, in managedFields and in Events.
	fieldManager = "signetd"
	// requestTimeout bounds one request to the API server.
	requestTimeout = 10 * time.Second
	// maxPause is the longest pause after failures in a row.
	maxPause = 5 * time.Minute
)

// entry is what is known of one object. Owned by Run.
type entry struct {
	object Object
	// changed is when this generation of it was first seen.
	changed time.Time
	// written are the conditions that the object was last seen to have; nil: not looked at yet.
	written []condition
	// ownVersion is the resourceVersion that the last write made: with it the object is not news.
	ownVersion string
	// since is when the present difference was first seen, zero for none.
	since time.Time
	// next is before when the object must not be written, failures how often the last attempts failed.
	next     time.Time
	failures int
	// events are the names of those that are known to exist.
	events map[string]bool
}

// note takes over what was found, and forgets objects that are gone or not ours.
func (w *Writer) note(all []Object) {
	present := make(map[mesh.Key]bool, len(all))
	for _, o := range all {
		if !w.cfg.Ours(o.Namespace) {
			continue
		}
		present[o.Key] = true
		e := w.entries[o.Key]
		switch {
		case e == nil || e.object.UID != o.UID:
			e = &entry{events: map[string]bool{}, changed: time.Now()}
			w.entries[o.Key] = e
		case o.ResourceVersion != e.object.ResourceVersion && o.ResourceVersion != e.ownVersion:
			e.written = nil // somebody wrote it: look again
		}
		if o.Generation != e.object.Generation {
			e.changed = time.Now()
		}
		e.object = o
	}
	for key := range w.entries {
		if !present[key] {
			delete(w.entries, key)
		}
	}
}

// pass does what is due, the longest waiting first, within the budget of one tick.
func (w *Writer) pass(ctx context.Context) {
	now := time.Now()
	var due []*entry
	w.restless = false
	for _, e := range w.entries {
		p := w.cfg.Programs.Programmed(e.object.Key)
		w.restless = w.restless || p.Acked < p.Wanted
		if slices.Equal(want(e, p), e.written) && len(w.missing(e, p)) == 0 {
			e.since = time.Time{}
			continue
		}
		w.restless = true
		if e.since.IsZero() {
			e.since = now
		}
		if now.Sub(e.since) >= w.cfg.Settle && !w.early(e, p, now) && !now.Before(e.next) {
			due = append(due, e)
		}
	}
	slices.SortFunc(due, func(a, b *entry) int { return a.since.Compare(b.since) })
	budget := w.cfg.PerTick
	for _, e := range due {
		if budget <= 0 || ctx.Err() != nil {
			return
		}
		budget -= w.settle(ctx, e)
	}
}

// want is nil for an object that can't have conditions.
func want(e *entry, p Progress) []condition {
	if _, ok := resourceOf(&e.object); !ok {
		return nil
	}
	return conditionsOf(&e.object, p)
}

// early reports whether nobody needs an object only because it is so new. What is said of a refused one does not depend on
// that.
func (w *Writer) early(e *entry, p Progress, now time.Time) bool {
	return p.Wanted == 0 && now.Sub(e.changed) < w.cfg.Grace && !e.object.Quarantined && !refused(&e.object)
}

// settle writes what an object lacks and returns how many requests that took.
func (w *Writer) settle(ctx context.Context, e *entry) (requests int) {
	var failed error
	p := w.cfg.Programs.Programmed(e.object.Key)
	for _, ev := range w.missing(e, p) {
		requests++
		if err := w.createEvent(ctx, ev); err != nil {
			failed = fmt.Errorf("creating event %s/%s: %w", ev.Namespace, ev.Name, err)
			break
		}
		e.events[ev.Name] = true
	}
	if want := want(e, p); failed == nil && !slices.Equal(want, e.written) {
		requests += 2
		failed = w.write(ctx, e, want)
	}
	e.since = time.Time{}
	if failed == nil {
		e.failures, e.next = 0, time.Now().Add(w.cfg.Every)
		return requests
	}
	pause := min(w.cfg.Every<<min(e.failures, 16), maxPause)
	e.failures++
	e.next = time.Now().Add(pause)
	if ctx.Err() == nil {
		w.cfg.Log.Warn("status not written", "object", e.object.Key.String(), "again", pause, "error", failed)
	}
	return requests
}

// write reads the object as it is, and patches the conditions of it that differ. The patch names the resourceVersion that was
// read: conditions is one list to a merge patch, and what somebody else wrote in between must not get lost.
func (w *Writer) write(ctx context.Context, e *entry, want []condition) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	o := &e.object
	gvr, _ := resourceOf(o)
	resource := w.cfg.Dynamic.Resource(gvr).Namespace(o.Namespace)
	have, err := resource.Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		e.written = want // gone: the findings will say so
		return nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", gvr.Resource, err)
	case o.UID != "" && have.GetUID() != o.UID || have.GetGeneration() != o.Generation:
		return nil // newer than what was judged: the findings will follow
	}
	body, err := patchOf(have, o, want, time.Now())
	if err != nil || body == nil {
		if err == nil {
			e.written, e.ownVersion = want, have.GetResourceVersion()
		}
		return err
	}
	got, err := resource.Patch(ctx, o.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	switch {
	case apierrors.IsConflict(err):
		return nil // somebody was faster: again after Every
	case apierrors.IsNotFound(err):
		return fmt.Errorf("writing the status of %s: it is gone, or its CustomResourceDefinition has no status subresource: %w", gvr.Resource, err)
	case err != nil:
		return fmt.Errorf("writing the status of %s: %w", gvr.Resource, err)
	}
	e.written, e.ownVersion = want, got.GetResourceVersion()
	return nil
}

// patchOf is nil if the object has these conditions already.
func patchOf(have *unstructured.Unstructured, o *Object, want []condition, now time.Time) ([]byte, error) {
	conditions, _, err := unstructured.NestedSlice(have.Object, "status", "conditions")
	if err != nil {
		return nil, fmt.Errorf("reading status.conditions: %w", err)
	}
	merged, changed := merge(conditions, want, now)
	status := map[string]any{"conditions": merged}
	if o.Group != mesh.GroupPolicy { // IstioStatus has one for the whole (istio.io/api meta/v1alpha1)
		observed, _, _ := unstructured.NestedFieldNoCopy(have.Object, "status", "observedGeneration")
		changed = changed || fmt.Sprint(observed) != fmt.Sprint(o.Generation)
		status["observedGeneration"] = o.Generation
	}
	if !changed {
		return nil, nil
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": have.GetResourceVersion()}, "status": status})
}

// resourceOf is how the API server serves the object; false for one that has no conditions (a ConfigMap, a Service, a Pod).
func resourceOf(o *Object) (schema.GroupVersionResource, bool) {
	plural := plurals(o.Kind)
	if o.Group == mesh.GroupCore || plural == "" {
		return schema.GroupVersionResource{}, false
	}
	if !o.Resource.Empty() {
		return o.Resource, true
	}
	return schema.GroupVersionResource{Group: o.Group, Version: mesh.VersionOf(o.Group), Resource: plural}, true
}

// plurals are the names by which the API server serves the kinds.
func plurals(kind string) string {
	switch kind {
	case mesh.KindWorkloadEntry:
		return "workloadentries"
	case mesh.KindServiceEntry:
		return "serviceentries"
	case mesh.KindSidecar:
		return "sidecars"
	case mesh.KindVirtualService:
		return "virtualservices"
	case mesh.KindDestinationRule:
		return "destinationrules"
	case mesh.KindAuthorizationPolicy:
		return "authorizationpolicies"
	case mesh.KindPeerAuthentication:
		return "peerauthentications"
	case mesh.KindRequestAuthentication:
		return "requestauthentications"
	case mesh.KindRegoPolicy:
		return "regopolicies"
	case mesh.KindRateLimitPolicy:
		return "ratelimitpolicies"
	}
	return ""
}
