package tool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/kube"
)

// controlPlane is what a cluster has of Signet's: the Services of its revisions, and the pods behind them that are neither finished
// nor on their way out.
type controlPlane struct {
	services []string
	pods     []*corev1.Pod
}

// runs reports whether a replica could answer.
func (c *controlPlane) runs() bool { return slices.ContainsFunc(c.pods, started) }

// isControl says whether an object is of a control plane by its name: that of a revision ends in -REVISION.
func isControl(name string) bool {
	return name == kube.ControlPlane || strings.HasPrefix(name, kube.ControlPlane+"-")
}

// control finds the control plane by its Services.
func (k *cluster) control(ctx context.Context) (*controlPlane, error) {
	ns := k.remote.system
	list, err := k.client.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, listing("services", ns, err)
	}
	out := &controlPlane{}
	seen := map[string]bool{}
	for i := range list.Items {
		s := &list.Items[i]
		if !isControl(s.Name) || len(s.Spec.Selector) == 0 {
			continue
		}
		out.services = append(out.services, s.Name)
		some, err := k.pods(ctx, ns, labels.SelectorFromSet(s.Spec.Selector).String())
		if err != nil {
			return nil, err
		}
		for _, p := range some {
			gone := p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
			if !gone && !seen[p.Name] {
				seen[p.Name] = true
				out.pods = append(out.pods, p)
			}
		}
	}
	return out, nil
}

// away says what there is of a control plane of which nothing runs, and what to do.
func (k *cluster) away(ctx context.Context, c *controlPlane) error {
	ns := k.remote.system
	var deployments []appsv1.Deployment
	list, unread := k.client.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
	if unread == nil {
		deployments = slices.DeleteFunc(list.Items, func(d appsv1.Deployment) bool { return !isControl(d.Name) })
	}
	if len(c.services)+len(deployments) == 0 {
		return fmt.Errorf("finding the control plane: no running pod behind a Service %s in namespace %q; is Signet installed there? --system-namespace names another", kube.ControlPlane, ns)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "finding the control plane: Signet is installed in namespace %q, but no pod of it runs", ns)
	line := func(format string, args ...any) { fmt.Fprintf(&b, "\n  "+format, args...) }
	if len(c.services) == 0 {
		line("no Service %s", kube.ControlPlane)
	}
	for _, s := range c.services {
		line("Service %s", s)
	}
	if unread != nil {
		line("Deployment: unknown: %v", listing("deployments", ns, unread))
	} else if len(deployments) == 0 {
		line("no Deployment %s", kube.ControlPlane)
	}
	for i := range deployments {
		d := &deployments[i]
		line("Deployment %s: %d replicas wanted, %d there, %d ready", d.Name, wanted(d), d.Status.Replicas, d.Status.ReadyReplicas)
		for _, x := range d.Status.Conditions {
			if x.Type == appsv1.DeploymentReplicaFailure && x.Status == corev1.ConditionTrue {
				line("  it can't make pods: %s: %s", x.Reason, explain.Printable(x.Message))
			}
		}
	}
	for _, p := range c.pods {
		line("pod %s: %s", p.Name, stateOf(p))
	}
	b.WriteString("\n" + k.advice(c, deployments, unread != nil))
	return fmt.Errorf("%s", b.String())
}

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// advice says what to do about a control plane of which nothing runs.
func (k *cluster) advice(c *controlPlane, deployments []appsv1.Deployment, unread bool) string {
	ns := k.remote.system
	off := slices.IndexFunc(deployments, func(d appsv1.Deployment) bool { return wanted(&d) == 0 })
	crashed := slices.IndexFunc(c.pods, func(p *corev1.Pod) bool { return ended(p) != nil })
	switch {
	case len(deployments) == 0 && !unread || len(c.services) == 0:
		return "'signet install | kubectl apply -f -' puts back what is missing"
	case crashed >= 0:
		return fmt.Sprintf("What it said: kubectl -n %s logs %s --previous", ns, c.pods[crashed].Name)
	case len(c.pods) > 0:
		return fmt.Sprintf("What keeps it: kubectl -n %s describe pod %s", ns, c.pods[0].Name)
	case off >= 0:
		return fmt.Sprintf("It is scaled to none: kubectl -n %s scale deployment %s --replicas=3", ns, deployments[off].Name)
	case len(deployments) > 0:
		return fmt.Sprintf("What keeps it from making pods: kubectl -n %s describe deployment %s", ns, deployments[0].Name)
	}
	return fmt.Sprintf("What there is: kubectl -n %s get deployments,pods", ns)
}

// started reports whether a pod runs with all its containers started: one that crashes again and again is in phase Running too.
func started(p *corev1.Pod) bool {
	return running(p) && !slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running == nil })
}

// ended is the container of a pod that ended last and does not run, nil for none.
func ended(p *corev1.Pod) *corev1.ContainerStateTerminated {
	for i := range p.Status.ContainerStatuses {
		s := &p.Status.ContainerStatuses[i]
		if s.State.Terminated != nil {
			return s.State.Terminated
		}
		if s.State.Running == nil && s.LastTerminationState.Terminated != nil {
			return s.LastTerminationState.Terminated
		}
	}
	return nil
}

// stateOf is a pod's phase, and what it waits for or ended by.
func stateOf(p *corev1.Pod) string {
	parts := []string{string(cmp.Or(p.Status.Phase, corev1.PodPending))}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			add("%s", said(c.Reason, c.Message))
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil {
			add("container %s waits: %s", s.Name, said(w.Reason, w.Message))
		}
		if e := cmp.Or(s.State.Terminated, s.LastTerminationState.Terminated); e != nil && s.State.Running == nil && e.ExitCode != 0 {
			add("container %s ended with exit code %d: %s", s.Name, e.ExitCode, said(e.Reason, e.Message))
		}
	}
	if len(parts) == 1 && p.Status.Phase == corev1.PodRunning && !ready(p) {
		add("not ready")
	}
	return strings.Join(parts, "; ")
}

func said(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + explain.Printable(oneLine(message))
}
