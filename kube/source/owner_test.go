package source

import (
	"testing"

	networking "istio.io/api/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a pod uses is remembered for what comes after it, and not where nothing does.
func TestLastingOwner(t *testing.T) {
	yes := true
	for _, c := range []struct{ kind, name, hash, want string }{
		{"", "", "", ""},
		{"Node", "worker-1", "", ""},
		{"ReplicaSet", "cart-5d8f7c9b6d", "5d8f7c9b6d", "cart"},
		{"ReplicaSet", "cart", "", "cart"},
		{"StatefulSet", "db-bcdfg", "", "db-bcdfg"},
		{"DaemonSet", "agent", "", "agent"},
		{"Job", "report-28345670", "", "report"},
		{"Job", "report-1700740200", "", "report"},
		{"Job", "migrate", "", "migrate"},
		{"Job", "build-x7k2p", "", ""},
		{"Job", "build-linux", "", "build-linux"}, // generated suffixes have no vowels
		{"Workflow", "ci-x7k2p", "", ""},
		{"Workflow", "nightly-1700740200", "", "nightly"},
		{"Kafka", "events", "", "events"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod", Labels: map[string]string{}}}
		if c.kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: c.kind, Name: c.name, Controller: &yes}}
		}
		for _, label := range []string{labelTemplateHash, labelRolloutHash} {
			if p.Labels = map[string]string{}; c.hash != "" {
				p.Labels[label] = c.hash
			}
			if got := lastingOwner(p); got != c.want {
				t.Errorf("%s %s with %s: %q, want %q", c.kind, c.name, label, got, c.want)
			}
		}
	}
}

// The control plane's own pods are no workloads of the mesh: sent with their service account they would be refused by whoever gets them.
func TestControlPlaneHasNoAccount(t *testing.T) {
	for account, want := range map[string]string{"signetd": "", "prometheus": "prometheus"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "signet-system", Name: "a"}, Spec: corev1.PodSpec{ServiceAccountName: account, NodeName: "n"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}}
		o := podObject(pod)
		if o == nil {
			t.Fatal("no object")
		}
		if got := o.Spec.(*networking.WorkloadEntry).ServiceAccount; got != want {
			t.Errorf("%s: %q, want %q", account, got, want)
		}
	}
}
