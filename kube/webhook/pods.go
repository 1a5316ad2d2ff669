package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	admission "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/signet-mesh/signet/kube/inject"
)

// labelEnforce is the level of the Pod Security Standards that a namespace's pods must keep.
const labelEnforce = "pod-security.kubernetes.io/enforce"

// inject answers for a pod that is created: with a patch that gives it a sidecar, or without one.
func (s *Server) inject(ctx context.Context, r *admission.AdmissionRequest) *admission.AdmissionResponse {
	if r.Operation != admission.Create || r.Resource.Resource != "pods" || r.Resource.Group != "" || r.SubResource != "" {
		return s.left("not_a_new_pod")
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(r.Object.Raw, pod); err != nil {
		return s.broken(http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf("reading the pod: %v", err))
	}
	cfg := s.cfg.Injection()
	if cfg.System(r.Namespace) {
		return s.left(inject.ReasonSystemNamespace)
	}
	var err error
	labels, known := s.cfg.Namespace(r.Namespace)
	if !known || cfg.Wants(r.Namespace, labels, pod).Decision != inject.Wanted {
		labels, err = s.ask(ctx, r.Namespace, known)
	}
	if err != nil {
		return s.broken(http.StatusInternalServerError, metav1.StatusReasonInternalError,
			fmt.Sprintf("reading the labels of namespace %q, without which nobody knows whether pod %q wants a sidecar: %v: try again", r.Namespace, podName(pod), err))
	}
	v := cfg.Wants(r.Namespace, labels, pod)
	if v.Decision != inject.Wanted {
		s.tell(r, pod, v)
		if v.Message != "" {
			return s.left(v.Reason, v.Message)
		}
		return s.left(v.Reason)
	}
	if level := labels[labelEnforce]; level == "baseline" || level == "restricted" {
		return s.broken(http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf(
			"namespace %q enforces the Pod Security level %q, which refuses the init container that leads traffic through the sidecar (capability NET_ADMIN). "+
				"Ways out: set the namespace's label %s to privileged, or leave the pod out of the mesh by its label %s=false", r.Namespace, level, labelEnforce, "sidecar.istio.io/inject"))
	}
	return s.patch(cfg, pod)
}

// patch is the answer that gives the pod a sidecar.
func (s *Server) patch(cfg *inject.Config, pod *corev1.Pod) *admission.AdmissionResponse {
	before := pod.DeepCopy()
	warnings, err := cfg.Inject(pod, "")
	if err != nil {
		return s.broken(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, fmt.Sprintf("pod %q: %v", podName(pod), err))
	}
	ops, err := inject.Diff(before, pod)
	if err != nil {
		return s.broken(http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
	}
	response := allow(warnings...)
	if response.Patch, err = json.Marshal(ops); err != nil {
		return s.broken(http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
	}
	kind := admission.PatchTypeJSONPatch
	response.PatchType = &kind
	s.injection.WithLabelValues("injected").Inc()
	return response
}

// tell writes the Event of a pod whose user is the sidecar's, so many for one namespace. A dry run has no effects, and so no Event.
func (s *Server) tell(r *admission.AdmissionRequest, pod *corev1.Pod, v inject.Verdict) {
	if v.Reason != inject.ReasonProxyUser {
		return
	}
	if !s.told.may(r.Namespace, time.Now()) {
		return
	}
	s.cfg.Log.Warn("a pod stays without a sidecar", "namespace", r.Namespace, "pod", podName(pod), "reason", v.Message)
	if s.cfg.Events != nil && (r.DryRun == nil || !*r.DryRun) {
		s.cfg.Events.Event(podReference(r.Namespace, pod), corev1.EventTypeWarning, "InjectionSkipped", v.Message)
	}
}

// left allows the pod as it is.
func (s *Server) left(reason inject.Reason, warnings ...string) *admission.AdmissionResponse {
	s.injection.WithLabelValues(string(reason)).Inc()
	return allow(warnings...)
}

// broken refuses the pod.
func (s *Server) broken(code int32, reason metav1.StatusReason, message string) *admission.AdmissionResponse {
	result := "refused"
	if code == http.StatusInternalServerError {
		result = "error"
	}
	s.injection.WithLabelValues(result).Inc()
	return refuse(code, reason, message)
}

func podName(pod *corev1.Pod) string {
	if pod.Name != "" {
		return pod.Name
	}
	return pod.GenerateName
}
