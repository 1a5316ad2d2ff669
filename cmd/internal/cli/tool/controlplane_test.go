package tool

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/signet-mesh/signet/cmd/internal/cli"
)

// installation is what 'signet install' leaves in a namespace, as far as 'signet status' looks.
const installation = `{apiVersion: v1, kind: Service, metadata: {name: signetd}, spec: {selector: {app: signetd}, ports: [{port: 15012}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: signetd}, spec: {replicas: 2, selector: {matchLabels: {app: signetd}}, template: {metadata: {labels: {app: signetd}}, spec: {containers: [{name: signetd, image: x}]}}}}`

const replicaPod = `
---
{apiVersion: v1, kind: Pod, metadata: {name: signetd-a, labels: {app: signetd}}, spec: {automountServiceAccountToken: false, containers: [{name: signetd, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: signetd-b, labels: {app: signetd}}, spec: {automountServiceAccountToken: false, containers: [{name: signetd, image: x}]}}`

// silent asks for the status of a control plane of which nothing answers.
func silent(t *testing.T, ns string, want ...string) {
	t.Helper()
	code, out, errs := signet(t, "", "status", "--kubeconfig", kubeconfig(t, ""), "--system-namespace", ns)
	if code != cli.ExitFailure || out != "" {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, w := range want {
		if !strings.Contains(errs, w) {
			t.Errorf("want %q:\n%s", w, errs)
		}
	}
}

// TestStatusOfNoPod: a control plane that is installed and has no pod is described, with what to do.
func TestStatusOfNoPod(t *testing.T) {
	ns := apply(t, installation)
	client := kubernetes.NewForConfigOrDie(admin)
	deployments := client.AppsV1().Deployments(ns)
	status := `{"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]}}`
	if _, err := deployments.Patch(t.Context(), "signetd", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	silent(t, ns, `Signet is installed in namespace "`+ns+`", but no pod of it runs`, "  Service signetd\n", "Deployment signetd: 2 replicas wanted, 0 there, 0 ready",
		"FailedCreate: exceeded quota", "kubectl -n "+ns+" describe deployment signetd")
	if _, err := deployments.Patch(t.Context(), "signetd", types.MergePatchType, []byte(`{"spec": {"replicas": 0}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	silent(t, ns, "Deployment signetd: 0 replicas wanted", "kubectl -n "+ns+" scale deployment signetd --replicas=3")
	code, _, errs := signet(t, "", "top", "--once", "--kubeconfig", kubeconfig(t, ""), "--system-namespace", ns)
	if code != cli.ExitFailure || !strings.Contains(errs, "no running pod of cluster here has one\n") || !strings.Contains(errs, "0 replicas wanted") {
		t.Errorf("top: exit %d: %s", code, errs)
	}
	if err := deployments.Delete(t.Context(), "signetd", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	silent(t, ns, "  Service signetd\n  no Deployment signetd\n", "'signet install | kubectl apply -f -' puts back what is missing")
	if err := client.CoreV1().Services(ns).Delete(t.Context(), "signetd", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	silent(t, ns, "is Signet installed there?")
}

// TestStatusOfStuckPods: pods that wait or crash are named with the reason, and not asked; what finished or goes is left out.
func TestStatusOfStuckPods(t *testing.T) {
	ns := apply(t, installation+replicaPod)
	pods := kubernetes.NewForConfigOrDie(admin).CoreV1().Pods(ns)
	set := func(name string, s corev1.PodStatus) {
		t.Helper()
		p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Status = s
		if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set("signetd-a", corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"}}})
	set("signetd-b", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
		{Name: "signetd", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no\nsuch \x1bimage"}}}}})
	silent(t, ns, "pod signetd-a: Pending; Unschedulable: 0/3 nodes are available\n",
		`pod signetd-b: Pending; container signetd waits: ImagePullBackOff: no such \x1bimage`, "kubectl -n "+ns+" describe pod signetd-a")

	crash := corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "signetd",
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error"}}}}}
	set("signetd-b", crash)
	silent(t, ns, "pod signetd-b: Running; container signetd waits: CrashLoopBackOff; container signetd ended with exit code 2: Error\n",
		"kubectl -n "+ns+" logs signetd-b --previous")

	set("signetd-a", corev1.PodStatus{Phase: corev1.PodRunning}) // and nobody answers there
	silent(t, ns, "control plane at pod "+ns+"/signetd-b: Running; container signetd waits: CrashLoopBackOff", "control plane at pod "+ns+"/signetd-a: ")
	set("signetd-a", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"})
	set("signetd-b", corev1.PodStatus{Phase: corev1.PodSucceeded})
	silent(t, ns, "Deployment signetd: 2 replicas wanted", "describe deployment signetd")
}

// TestStatusWithFewRights: who may not see Deployments is told what else there is.
func TestStatusWithFewRights(t *testing.T) {
	ns := apply(t, installation+`
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: look}, rules: [{apiGroups: [""], resources: [pods, services], verbs: [get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: look}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: look}, subjects: [{kind: User, name: looker, apiGroup: rbac.authorization.k8s.io}]}`)
	code, _, errs := signet(t, "", "status", "--kubeconfig", kubeconfig(t, "looker"), "--system-namespace", ns)
	if code != cli.ExitFailure || !strings.Contains(errs, "Service signetd") || !strings.Contains(errs, "need the verbs get and list on deployments") ||
		!strings.Contains(errs, "get deployments,pods") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// Deployments of other names are no control plane.
func TestIsControl(t *testing.T) {
	for name, want := range map[string]bool{"signetd": true, "signetd-canary": true, "signetdd": false, "my-signetd": false} {
		if got := isControl(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if n := wanted(&appsv1.Deployment{}); n != 1 {
		t.Errorf("a Deployment that says nothing wants %d, not 1", n)
	}
}
