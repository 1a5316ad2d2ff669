package install

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/kube"
)

// Options are what the command line says of an installation. Empty Revision, Hub and Tag are not said.
type Options struct {
	Profile            string
	Files, Set         []string // values: files, and KEY=VALUE
	Revision, Hub, Tag string
	TakeOver           bool
	Namespace          string
}

// Values are those that the person set, by profile, files and flags. They are judged before anything is asked of a cluster.
func (o *Options) Values() (map[string]any, error) {
	if !label(o.Namespace) {
		return nil, fmt.Errorf("--namespace %q: want a DNS label (RFC 1123): lower-case letters, digits and inner hyphens, at most 63, such as %s", o.Namespace, kube.SystemNamespace)
	}
	v, err := readProfile(o.Profile)
	if err != nil {
		return nil, err
	}
	if v, err = addValues(v, o.Files, o.Set); err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, value string }{{"revision", o.Revision}, {"hub", o.Hub}, {"tag", o.Tag}} {
		if f.value != "" {
			v[f.name] = f.value
		}
	}
	if o.TakeOver {
		v["takeOver"] = true
	}
	if _, err := Render(v, o.Namespace, ""); err != nil {
		return nil, err
	}
	return v, nil
}

// Revision is the one that values say.
func Revision(values map[string]any) string {
	if r, ok := values["revision"].(string); ok && r != "" {
		return r
	}
	return kube.DefaultRevision
}

// Decide settles in values who owns the labels that name no revision: whoever lives there keeps them, unless they are taken over.
// What this revision has already it keeps, unless values give it up: an upgrade must not take sidecars from pods.
func (s *Survey) Decide(values map[string]any) error {
	others := s.Others()
	if others == "" {
		return nil
	}
	alone, said := values["alone"].(bool)
	if len(s.istio) == 0 && s.alone { // the others came later, and have let it be
		if !said {
			values["alone"] = true
		}
		return nil
	}
	if said && alone {
		return fmt.Errorf("alone is set, but %s lives in this cluster; --take-over takes the labels that name no revision beside it", others)
	}
	values["alone"] = false
	if _, said := values["takeOver"]; !said && s.bare {
		values["takeOver"] = true
	}
	return nil
}

// change says what becomes of the labels that name no revision where this revision is installed already; "" where that is plain.
func (s *Survey) change(o *Options, bare bool) string {
	switch {
	case s == nil || s.Others() == "":
		return ""
	case s.bare && !bare:
		return "WARNING: istio-injection=enabled is this revision's now and will not be any more; new pods of such namespaces start without a sidecar of it"
	case s.bare && !o.TakeOver:
		return "istio-injection=enabled stays this revision's, as it is now, beside " + s.Others() + "; --set takeOver=false,alone=false gives it up"
	}
	return ""
}

// Without leaves out what is there already and is not ours, and names it.
func (r *Rendered) Without(s *Survey) []string {
	var kept []string
	r.objects = slices.DeleteFunc(r.objects, func(o object) bool {
		there := o.Kind == "CustomResourceDefinition" && slices.Contains(s.foreign, o.Metadata.Name) || o.Kind == "Namespace" && s.namespace
		if there {
			kept = append(kept, strings.ToLower(o.Kind)+"/"+o.Metadata.Name)
		}
		return there
	})
	return kept
}

// Tell prints what was decided. s is nil where no cluster was looked at.
func (r *Rendered) Tell(w io.Writer, o *Options, s *Survey, kept []string) {
	rows := [][2]string{{"profile", o.Profile}, {"namespace", o.Namespace}, {"revision", r.value("revision")}, {"images", r.images()}}
	if s == nil {
		rows = append(rows, [2]string{"cluster", "not looked at (--offline)"})
	} else {
		found := s.Others()
		if found == "" {
			found = "no Istio"
		}
		rows = append(rows, [2]string{"cluster", s.server + ", Kubernetes " + strings.TrimPrefix(s.version, "v")}, [2]string{"found", found})
	}
	alone := r.value("alone") == "true"
	labels := "istio.io/rev=" + r.value("revision")
	bare := alone || r.value("takeOver") == "true"
	if bare {
		labels += ", istio-injection=enabled"
	} else {
		labels += " (istio-injection=enabled is left alone; --take-over takes it)"
	}
	bundle := kube.BundleConfigMap
	if alone {
		bundle += ", " + kube.IstioBundleConfigMap
	}
	rows = append(rows, [2]string{"labels", labels}, [2]string{"trust bundle", "ConfigMap " + bundle})
	if len(kept) > 0 {
		rows = append(rows, [2]string{"left alone", strings.Join(kept, ", ")})
	}
	if change := s.change(o, bare); change != "" {
		rows = append(rows, [2]string{"note", change})
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%-13s %s\n", row[0], row[1])
	}
}

// label says whether s is a DNS label (RFC 1123), as names of namespaces are.
func label(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}
