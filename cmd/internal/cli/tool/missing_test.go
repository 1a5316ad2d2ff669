package tool

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/kube"
)

// TestMissingSidecars: an injected pod that no replica knows is told of as not connected, with what its pod says, and all is not well
// then; pods that are young, done, leaving or not injected are not missed.
func TestMissingSidecars(t *testing.T) {
	pod := func(name string, age time.Duration, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-age))},
			Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: kube.ProxyContainer}}, Volumes: []corev1.Volume{{Name: kube.TokenVolume}}},
			Status: corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{Name: kube.ProxyContainer,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	now := metav1.Now()
	k := &cluster{remote: &remote{}, client: fake.NewClientset(pod("stuck", time.Hour, nil), pod("known", time.Hour, nil), pod("young", time.Second, nil),
		pod("done", time.Hour, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		pod("leaving", time.Hour, func(p *corev1.Pod) { p.DeletionTimestamp, p.Finalizers = &now, []string{"a/b"} }),
		pod("bare", time.Hour, func(p *corev1.Pod) { p.Spec.InitContainers = nil }))}
	s := &meshStatus{Control: &plane.Status{Proxies: []plane.ProxyStatus{{Workload: "shop/known", Connected: true, InSync: true}}}}
	if !s.well() {
		t.Fatal("not well before")
	}
	k.missing(t.Context(), s.Control)
	if p := s.Control.Proxies; len(p) != 2 || p[1].Workload != "shop/stuck" || p[1].Connected || p[1].Pod != "Pending; container istio-proxy waits: CrashLoopBackOff" || s.well() {
		t.Errorf("%+v, well: %v", p, s.well())
	}
}
