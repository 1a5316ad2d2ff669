package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/inject"
	"github.com/signet-mesh/signet/mesh"
)

// injection says of pods that are meant for a mesh what the injection would refuse or drop: annotations, names, volumes. Pods
// of one workload are told of once.
func (s *survey) injection(ctx context.Context) error {
	meant, err := s.meant(ctx)
	if err != nil {
		return err
	}
	cfg := inject.DefaultConfig()
	told := map[string]bool{}
	for _, p := range s.pods {
		if injected(p) || cfg.System(p.Namespace) || !meant(p) {
			continue
		}
		pod := withoutSidecar(p)
		workload := workloadOf(pod)
		tell := func(severity mesh.Severity, message string) {
			if message == "" || told[pod.Namespace+"/"+workload+"\x00"+message] {
				return
			}
			told[pod.Namespace+"/"+workload+"\x00"+message] = true
			s.problems = append(s.problems, mesh.Problem{Severity: severity, Message: message,
				Key: mesh.Key{Group: mesh.GroupCore, Kind: mesh.KindPod, Namespace: pod.Namespace, Name: pod.Name}})
		}
		if v := cfg.WantsByHand(pod); v.Decision != inject.Wanted {
			tell(mesh.Warning, v.Message)
			continue
		}
		warnings, err := cfg.Inject(pod, workload)
		if err != nil {
			tell(mesh.Refused, err.Error())
		}
		for _, w := range warnings {
			tell(mesh.Warning, w)
		}
	}
	return nil
}

// meant reports of a pod whether its labels or its namespace's ask for a sidecar, or it has one of Istio.
func (s *survey) meant(ctx context.Context) (func(*corev1.Pod) bool, error) {
	asks := map[string]bool{}
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		list, err := s.k.client.CoreV1().Namespaces().List(ctx, opts)
		if apierrors.IsForbidden(err) {
			s.notes = append(s.notes, "namespaces may not be listed: only pods that have a sidecar or ask for one themselves are looked at")
			break
		}
		if err != nil {
			return nil, listing("namespaces", "", err)
		}
		for i := range list.Items {
			n := &list.Items[i]
			asks[n.Name] = n.Labels[kube.LabelInjection] == "enabled" || n.Labels[kube.LabelRevision] != ""
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
	}
	return func(p *corev1.Pod) bool {
		inject := p.Labels[kube.LabelInject]
		if inject == "" {
			inject = p.Annotations[kube.LabelInject]
		}
		return inject != "false" && (inject == "true" || asks[p.Namespace] || p.Annotations[kube.AnnotationStatus] != "")
	}, nil
}

// istioContainers are what Istio's injection adds.
var istioContainers = []string{kube.ProxyContainer, "istio-init", "istio-validation"}

// withoutSidecar is a pod as it was before Istio injected it.
func withoutSidecar(p *corev1.Pod) *corev1.Pod {
	out := p.DeepCopy()
	text := out.Annotations[kube.AnnotationStatus]
	if text == "" {
		return out
	}
	var status struct{ Volumes []string }
	_ = json.Unmarshal([]byte(text), &status) // a status that can't be read names no volumes
	added := func(c corev1.Container) bool { return slices.Contains(istioContainers, c.Name) }
	out.Spec.InitContainers = slices.DeleteFunc(out.Spec.InitContainers, added)
	out.Spec.Containers = slices.DeleteFunc(out.Spec.Containers, added)
	out.Spec.Volumes = slices.DeleteFunc(out.Spec.Volumes, func(v corev1.Volume) bool { return slices.Contains(status.Volumes, v.Name) })
	delete(out.Annotations, kube.AnnotationStatus)
	if out.Annotations["prometheus.io/port"] == "15020" { // Istio's rewrite
		for _, a := range []string{"scrape", "port", "path"} {
			delete(out.Annotations, "prometheus.io/"+a)
		}
	}
	return out
}

// workloadOf is what a pod is of, for people: its controller, a Deployment for its ReplicaSet.
func workloadOf(p *corev1.Pod) string {
	o := metav1.GetControllerOf(p)
	if o == nil {
		return p.Name
	}
	if hash := p.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
		return strings.TrimSuffix(o.Name, "-"+hash)
	}
	return inject.WorkloadName(o.Kind, o.Name)
}

// describe is a line for people on what was judged.
func (s *survey) describe() string {
	if s.namespace != "" {
		return fmt.Sprintf("namespace %s of cluster %s", s.namespace, s.k.name)
	}
	return "cluster " + s.k.name
}
