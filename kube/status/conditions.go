package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signet-mesh/signet/mesh"
)

// The types of the conditions that are ours.
const (
	Accepted     = "Accepted"
	Programmed   = "Programmed"
	ResolvedRefs = "ResolvedRefs"
)

// The reasons beside those that are named like a condition that is true.
const (
	reasonInvalid     = "Invalid"     // refused: it is not used; its last good version goes on where there is one
	reasonQuarantined = "Quarantined" // refused without a last good version: what it selects is closed
	reasonPending     = "Pending"
	reasonRefused     = "Refused"
	reasonNotFound    = "NotFound"
)

// maxMessage bounds a condition's message in bytes. metav1.Condition allows 32,768.
const maxMessage = 4096

// condition is one condition without its time.
type condition struct {
	kind, status, reason, message string
	generation                    int64
}

// refused reports whether an object is refused as it is now.
func refused(o *Object) bool {
	return slices.ContainsFunc(o.Problems, func(p mesh.Problem) bool { return p.Severity == mesh.Refused })
}

// conditionsOf are the conditions that an object should have, in the order in which they are written.
func conditionsOf(o *Object, p Progress) []condition {
	var refusals, warnings, dangling []string
	for i := range o.Problems {
		f := &o.Problems[i]
		switch {
		case f.Severity == mesh.Refused:
			refusals = append(refusals, told(f))
		case f.Dangling:
			dangling = append(dangling, told(f))
		default:
			warnings = append(warnings, told(f))
		}
	}
	out := []condition{accepted(o, refusals, warnings), programmed(o, len(refusals) > 0, p), resolved(o, len(refusals) > 0, dangling)}
	for i := range out {
		out[i].generation = o.Generation
		out[i].message = clip(out[i].message, maxMessage)
	}
	return out
}

// told is a problem as `signet validate` says it, without the place in a file and the name.
func told(p *mesh.Problem) string {
	if p.Field == "" {
		return p.Message
	}
	return p.Field + ": " + p.Message
}

func accepted(o *Object, refusals, warnings []string) condition {
	c := condition{kind: Accepted, status: "False", reason: reasonInvalid, message: strings.Join(refusals, "; ")}
	switch {
	case o.Quarantined:
		c.reason = reasonQuarantined
		if c.message == "" {
			c.message = "it was refused before, and there is no last good version"
		}
	case len(refusals) > 0:
	case len(warnings) > 0:
		c.status, c.reason, c.message = "True", Accepted, "with warnings: "+strings.Join(warnings, "; ")
	default:
		c.status, c.reason, c.message = "True", Accepted, "the object stands"
	}
	return c
}

func programmed(o *Object, refused bool, p Progress) condition {
	c := condition{kind: Programmed, status: "False", message: fmt.Sprintf("%d of %d proxies acknowledged", p.Acked, p.Wanted)}
	if o.Quarantined {
		c.message += " that what it selects is closed"
	}
	if p.Unasked > 0 {
		c.message += fmt.Sprintf("; %d replicas of the control plane could not be asked", p.Unasked)
	}
	switch {
	case o.Quarantined:
		c.reason = reasonQuarantined
	case refused:
		c.reason, c.message = reasonInvalid, "this version is not sent to any proxy"
	case p.Refusal != "":
		c.reason, c.message = reasonRefused, c.message+"; refused: "+oneLine(p.Refusal)
	case p.Acked < p.Wanted:
		c.reason = reasonPending
	case p.Wanted == 0 && p.Unasked > 0: // nothing is known
		c.status, c.reason = "Unknown", reasonPending
	default:
		c.status, c.reason = "True", Programmed
	}
	return c
}

func resolved(o *Object, refused bool, dangling []string) condition {
	c := condition{kind: ResolvedRefs, status: "True", reason: ResolvedRefs, message: "all that it refers to exists"}
	switch {
	case len(dangling) > 0:
		c.status, c.reason, c.message = "False", reasonNotFound, strings.Join(dangling, "; ")
	case refused || o.Quarantined:
		c.status, c.reason, c.message = "Unknown", reasonInvalid, "references of a refused object are not looked at"
	}
	return c
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// clip shortens a text to at most that many bytes of valid UTF-8.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= most {
		return s
	}
	const dots = "..."
	return strings.ToValidUTF8(s[:most-len(dots)], "") + dots
}

// merge puts conditions into those that an object has, and says whether anything is different then. lastTransitionTime moves
// with the status of a condition, not with its reason or message (Kubernetes API conventions, "Typical status properties").
func merge(have []any, want []condition, now time.Time) (merged []any, changed bool) {
	merged = make([]any, 0, len(have)+len(want))
	at := map[string]int{}
	for _, h := range have {
		if m, ok := h.(map[string]any); ok {
			if kind, _ := m["type"].(string); kind != "" {
				at[kind] = len(merged)
			}
		}
		merged = append(merged, h)
	}
	for _, c := range want {
		next := map[string]any{"type": c.kind, "status": c.status, "reason": c.reason, "message": c.message,
			"observedGeneration": c.generation, "lastTransitionTime": now.UTC().Format(time.RFC3339)}
		i, known := at[c.kind]
		if !known {
			merged, changed = append(merged, next), true
			continue
		}
		old := merged[i].(map[string]any)
		since, _ := old["lastTransitionTime"].(string)
		if _, err := time.Parse(time.RFC3339, since); err == nil && old["status"] == c.status {
			next["lastTransitionTime"] = since
		}
		if !same(old, next) {
			merged[i], changed = next, true
		}
	}
	return merged, changed
}

// same compares by value: a number may be an int64 or a text (IstioStatus allows both).
func same(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || fmt.Sprint(v) != fmt.Sprint(w) {
			return false
		}
	}
	return true
}
