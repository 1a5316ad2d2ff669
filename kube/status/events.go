package status

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/signet-mesh/signet/mesh"
)

// The reasons of Events, beside Quarantined.
const (
	eventInvalid = "Invalid"
	eventRefused = "RefusedByProxy"
	eventIgnored = "NotHonoured" // of a kind without conditions: a part of it is dropped
)

// Limits of events.k8s.io/v1: note below 1 kB; and of a name.
const (
	maxNote      = 1000
	maxEventName = 253
)

const controller = "signet.dev/signetd"

// missing are the Events that an object should have and that are not known to exist. The name of an Event is made of the
// object's generation and the reason, so that there is one of each, whoever leads and however often.
func (w *Writer) missing(e *entry, p Progress) []*eventsv1.Event {
	o := &e.object
	var out []*eventsv1.Event
	add := func(reason, note string) {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", o.Kind, o.UID, o.Generation, reason))
		suffix := "." + hex.EncodeToString(sum[:8])
		name := o.Name[:min(len(o.Name), maxEventName-len(suffix))] + suffix
		if !e.events[name] {
			out = append(out, w.event(o, name, reason, note))
		}
	}
	var refusals, warnings []string
	for i := range o.Problems {
		if f := &o.Problems[i]; f.Severity == mesh.Refused {
			refusals = append(refusals, told(f))
		} else if !f.Dangling {
			warnings = append(warnings, told(f))
		}
	}
	_, conditioned := resourceOf(o)
	switch {
	case o.Quarantined:
		add(reasonQuarantined, "what it selects is closed: "+strings.Join(refusals, "; "))
	case len(refusals) > 0:
		add(eventInvalid, strings.Join(refusals, "; "))
	case len(warnings) > 0 && !conditioned:
		add(eventIgnored, strings.Join(warnings, "; "))
	}
	if conditioned && p.Refusal != "" {
		add(eventRefused, oneLine(p.Refusal))
	}
	return out
}

func (w *Writer) event(o *Object, name, reason, note string) *eventsv1.Event {
	version := mesh.VersionOf(o.Group)
	if o.Resource.Version != "" {
		version = o.Resource.Version
	}
	about := corev1.ObjectReference{Kind: o.Kind, APIVersion: strings.TrimPrefix(o.Group+"/"+version, "/"),
		Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: name}, EventTime: metav1.NewMicroTime(time.Now()),
		Type: corev1.EventTypeWarning, Action: "Judging", Reason: reason, Note: clip(note, maxNote), Regarding: about,
		ReportingController: controller, ReportingInstance: clip(w.cfg.Instance, 128),
	}
}

func (w *Writer) createEvent(ctx context.Context, ev *eventsv1.Event) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := w.cfg.Client.EventsV1().Events(ev.Namespace).Create(ctx, ev, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
