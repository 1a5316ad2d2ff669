package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/signet-mesh/signet/mesh"
)

// istioGroups are the API groups of Istio and the Gateway API: a kind of theirs that is not read is told of by name.
var istioGroups = []string{mesh.GroupNetworking, mesh.GroupSecurity, "extensions.istio.io", "telemetry.istio.io", "gateway.networking.k8s.io", "install.istio.io"}

// maxFaults is how many faults a refusal tells of.
const maxFaults = 10

// validate answers for an object that is written: structural faults are refused with the words of `signet validate`, everything
// else is a warning. Nothing keeps an object from being deleted.
func (s *Server) validate(ctx context.Context, r *admission.AdmissionRequest) *admission.AdmissionResponse {
	if r.Operation != admission.Create && r.Operation != admission.Update || r.SubResource != "" || !s.owns(ctx, r.Namespace) {
		return s.judged("left")
	}
	if r.Kind.Group == mesh.GroupCore && (r.Kind.Kind != mesh.KindConfigMap || r.Name != meshConfigMap || r.Namespace != s.rootNamespace()) {
		return s.judged("left")
	}
	if _, read := mesh.NewSpec(r.Kind.Group, r.Kind.Kind); !read {
		if !slices.Contains(istioGroups, r.Kind.Group) {
			return s.judged("left")
		}
		return s.judged("not_honoured", fmt.Sprintf("Signet does not honour %s: it has no effect", r.Kind.Kind))
	}
	text, err := authored(r.Object.Raw, r.Name)
	if err != nil {
		s.validated.WithLabelValues("refused").Inc()
		return refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf("reading the object: %v", err))
	}
	objects, problems := mesh.Parse("", text, mesh.ParseOptions{TrustDomain: s.cfg.TrustDomain, RootNamespace: s.cfg.RootNamespace, Now: time.Now(), Judge: s.cfg.Judge})
	faults, warnings := sentences(problems)
	if len(faults) > 0 && !untouched(r) {
		s.validated.WithLabelValues("refused").Inc()
		return refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, strings.Join(faults, "\n"), warnings...)
	}
	warnings = append(faults, warnings...)
	for _, o := range objects {
		warnings = append(warnings, s.dangling(o)...)
	}
	if len(warnings) > 0 {
		return s.judged("warned", warnings...)
	}
	return s.judged("good")
}

// meshConfigMap is the ConfigMap of MeshConfig.
const meshConfigMap = "istio"

func (s *Server) rootNamespace() string {
	if s.cfg.RootNamespace != "" {
		return s.cfg.RootNamespace
	}
	return mesh.DefaultRootNamespace
}

func (s *Server) judged(result string, warnings ...string) *admission.AdmissionResponse {
	s.validated.WithLabelValues(result).Inc()
	return allow(warnings...)
}

// owns reports whether objects of the namespace are this revision's. Where the labels can't be read they are judged: that harms no
// good object.
func (s *Server) owns(ctx context.Context, namespace string) bool {
	if namespace == "" || namespace == s.rootNamespace() {
		return true
	}
	var err error
	labels, known := s.cfg.Namespace(namespace)
	if !known {
		labels, err = s.ask(ctx, namespace, false)
	}
	return err != nil || s.cfg.Injection().Owns(namespace, labels)
}

// authored is the object without what the API server adds. It has its name, which generateName has not given yet.
func authored(raw []byte, name string) ([]byte, error) {
	o, err := read(raw)
	if err != nil {
		return nil, err
	}
	if m, ok := o["metadata"].(map[string]any); ok {
		delete(m, "managedFields")
		if m["name"] == nil || m["name"] == "" {
			if prefix, _ := m["generateName"].(string); name == "" && prefix != "" {
				name = prefix + "x"
			}
			m["name"] = name
		}
	}
	delete(o, "status")
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err = enc.Encode(o)
	return out.Bytes(), err
}

func read(raw []byte) (map[string]any, error) {
	var o map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err := dec.Decode(&o)
	return o, err
}

// untouched reports whether an update leaves what is authored as it was: an object that an older version let in must not keep its
// finalizers or owners from being written.
func untouched(r *admission.AdmissionRequest) bool {
	if r.Operation != admission.Update {
		return false
	}
	before, err := read(r.OldObject.Raw)
	if err != nil {
		return false
	}
	after, err := read(r.Object.Raw)
	if err != nil {
		return false
	}
	for _, o := range []map[string]any{before, after} {
		delete(o, "status")
		if m, ok := o["metadata"].(map[string]any); ok {
			o["metadata"] = map[string]any{"labels": m["labels"], "annotations": m["annotations"]}
		}
	}
	return reflect.DeepEqual(before, after)
}

// sentences splits problems into faults and warnings. Lines of the JSON on the wire mean nothing to who wrote the object, so only
// the field says where.
func sentences(problems []mesh.Problem) (faults, warnings []string) {
	for i := range problems {
		p := &problems[i]
		p.Position = mesh.Position{}
		switch {
		case p.Severity != mesh.Refused:
			warnings = append(warnings, p.Error())
		case len(faults) < maxFaults:
			faults = append(faults, p.Error())
		}
	}
	return faults, warnings
}

// dangling warns of what the object says about others: they may come later, so nothing of it refuses.
func (s *Server) dangling(o *mesh.Object) []string {
	if s.cfg.Objects == nil {
		return nil
	}
	all := []*mesh.Object{o}
	for _, other := range s.cfg.Objects() {
		if other.Key != o.Key {
			all = append(all, other)
		}
	}
	_, problems := mesh.Build(all, mesh.BuildOptions{TrustDomain: s.cfg.TrustDomain})
	faults, warnings := sentences(slices.DeleteFunc(problems, func(p mesh.Problem) bool { return p.Key != o.Key }))
	return append(faults, warnings...)
}
