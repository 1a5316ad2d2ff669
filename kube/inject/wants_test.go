package inject

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type labels = map[string]string

// Istio's table: the namespace's istio-injection, then its istio.io/rev, then the pod's labels.
func TestWants(t *testing.T) {
	const bare, rev, inject = "istio-injection", "istio.io/rev", "sidecar.istio.io/inject"
	alone, beside := DefaultConfig(), DefaultConfig()
	beside.DefaultRevision = false
	for _, c := range []struct {
		name           string
		namespace, pod labels
		alone, beside  bool
	}{
		{"nothing said", nil, nil, false, false},
		{"enabled", labels{bare: "enabled"}, nil, true, false},
		{"enabled, pod says no", labels{bare: "enabled"}, labels{inject: "false"}, false, false},
		{"enabled, pod says something", labels{bare: "enabled"}, labels{inject: "maybe"}, false, false},
		{"disabled, pod says yes", labels{bare: "disabled"}, labels{inject: "true"}, false, false},
		{"disabled, pod names the revision", labels{bare: "disabled"}, labels{rev: "signet"}, false, false},
		{"this revision", labels{rev: "signet"}, nil, true, true},
		{"the default revision", labels{rev: "default"}, nil, true, false},
		{"another revision", labels{rev: "1-30"}, nil, false, false},
		{"another revision, pod names this one", labels{rev: "1-30"}, labels{rev: "signet"}, false, false},
		{"this revision and enabled", labels{rev: "1-30", bare: "enabled"}, nil, true, false},
		{"pod says yes", nil, labels{inject: "true"}, true, false},
		{"pod names this revision", nil, labels{rev: "signet"}, true, true},
		{"pod names this revision and says no", nil, labels{rev: "signet", inject: "false"}, false, false},
		{"pod names another and says yes", nil, labels{rev: "1-30", inject: "true"}, false, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: c.pod}}
		for cfg, want := range map[*Config]bool{alone: c.alone, beside: c.beside} {
			if got := cfg.Wants("shop", c.namespace, pod); (got.Decision == Wanted) != want {
				t.Errorf("%s: %+v, want %v (beside an Istio: %v)", c.name, got, want, cfg == beside)
			}
			if cfg.Wants("kube-system", c.namespace, pod).Decision == Wanted {
				t.Errorf("%s: in kube-system", c.name)
			}
		}
	}
}

func TestOwns(t *testing.T) {
	alone, beside := DefaultConfig(), DefaultConfig()
	beside.DefaultRevision = false
	for _, c := range []struct {
		namespace     string
		labels        labels
		alone, beside bool
	}{
		{"shop", nil, true, false},
		{"shop", labels{"istio-injection": "enabled"}, true, false},
		{"shop", labels{"istio-injection": "disabled"}, true, false},
		{"shop", labels{"istio.io/rev": "signet"}, true, true},
		{"shop", labels{"istio.io/rev": "1-30"}, false, false},
		{"signet-system", nil, true, true},
	} {
		if a, b := alone.Owns(c.namespace, c.labels), beside.Owns(c.namespace, c.labels); a != c.alone || b != c.beside {
			t.Errorf("%s %v: %v, %v", c.namespace, c.labels, a, b)
		}
	}
}
