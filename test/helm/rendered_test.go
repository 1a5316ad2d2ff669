package helm_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// variants are sets of values whose rendering is judged.
func variants() [][]string {
	return [][]string{nil, {"revision=canary", "alone=false"}, {"alone=false", "takeOver=true", "rootNamespace=mesh-root", "tokenReview=true"},
		{"nodeSelector.disk=ssd", "tolerations[0].key=a", "imagePullSecrets[0]=pull", "priorityClassName=high", "meshConfig.accessLogFile=/dev/stdout",
			"networkPolicy.ingressFrom[0].podSelector.matchLabels.a=b", "networkPolicy.webhookFrom[0].ipBlock.cidr=10.0.0.10/32", "networkPolicy.egress.apiServerBlocks[0]=10.0.0.0/8", "networkPolicy.egress.redisPort=6379"}}
}

// rendered are the typed objects of a rendering, read strictly: an unknown field is an error.
type rendered []runtime.Object

func render(t *testing.T, profile string, set ...string) rendered {
	t.Helper()
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensions.AddToScheme} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, known, known, json.SerializerOptions{Yaml: true, Strict: true})
	var all rendered
	text, err := templateWith(t, values(t, profile, set...), profile == "default" && len(set) == 0)
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		if len(documents(t, doc)) == 0 {
			continue
		}
		o, _, err := strict.Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Errorf("%s %v: %v", profile, set, err)
			continue
		}
		all = append(all, o)
	}
	return all
}

// of yields the objects of one type.
func of[T runtime.Object](all rendered) []T {
	var out []T
	for _, o := range all {
		if x, ok := o.(T); ok {
			out = append(out, x)
		}
	}
	return out
}

func everyVariant(t *testing.T, judge func(t *testing.T, profile string, all rendered)) {
	for _, p := range profiles(t) {
		for i, set := range variants() {
			t.Run(fmt.Sprint(p, i), func(t *testing.T) { judge(t, p, render(t, p, set...)) })
		}
	}
}

// TestPodSecurity: the control plane's pods pass the strictest of the Pod Security Standards.
func TestPodSecurity(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	judge := func(d *appsv1.Deployment) policy.AggregateCheckResult {
		return policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &d.Spec.Template.ObjectMeta, &d.Spec.Template.Spec))
	}
	everyVariant(t, func(t *testing.T, _ string, all rendered) {
		found := of[*appsv1.Deployment](all)
		if len(found) != 1 {
			t.Fatalf("%d Deployments", len(found))
		}
		if r := judge(found[0]); !r.Allowed {
			t.Errorf("refused by restricted: %s", r.ForbiddenDetail())
		}
		c := &found[0].Spec.Template.Spec.Containers[0]
		if s := c.SecurityContext; s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Error("the root filesystem can be written")
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Error("no resources are requested")
		}
		if c.ReadinessProbe == nil || c.LivenessProbe == nil || c.StartupProbe == nil {
			t.Error("a probe is missing")
		}
		root := int64(0)
		found[0].Spec.Template.Spec.SecurityContext.RunAsUser = &root
		if judge(found[0]).Allowed {
			t.Error("uid 0 passes: nothing is judged here")
		}
	})
}

// TestReplicas: three that are spread and kept from being evicted together, or one.
func TestReplicas(t *testing.T) {
	everyVariant(t, func(t *testing.T, profile string, all rendered) {
		d := of[*appsv1.Deployment](all)[0]
		want, budgets, policies := int32(1), 0, 1
		switch profile {
		case "default":
			want, budgets = 3, 1
		case "minimal":
			policies = 0
		}
		if *d.Spec.Replicas != want || len(of[*policyv1.PodDisruptionBudget](all)) != budgets || len(of[*networkingv1.NetworkPolicy](all)) != policies {
			t.Errorf("%d replicas, %d disruption budgets, %d network policies; want %d, %d, %d", *d.Spec.Replicas, len(of[*policyv1.PodDisruptionBudget](all)),
				len(of[*networkingv1.NetworkPolicy](all)), want, budgets, policies)
		}
		spec := d.Spec.Template.Spec
		if len(spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 || len(spec.TopologySpreadConstraints) == 0 {
			t.Error("nothing spreads the replicas")
		}
	})
}

// TestReferences: what names another object names one that is there, in every revision.
func TestReferences(t *testing.T) {
	everyVariant(t, func(t *testing.T, _ string, all rendered) {
		d, service := of[*appsv1.Deployment](all)[0], of[*corev1.Service](all)[0]
		pods := labels.Set(d.Spec.Template.Labels)
		selects := func(what string, s *metav1.LabelSelector) {
			if sel, err := metav1.LabelSelectorAsSelector(s); err != nil || sel.Empty() || !sel.Matches(pods) {
				t.Errorf("%s does not select the pods: %v", what, err)
			}
		}
		selects("the Deployment", d.Spec.Selector)
		selects("the Service", &metav1.LabelSelector{MatchLabels: service.Spec.Selector})
		for _, b := range of[*policyv1.PodDisruptionBudget](all) {
			selects("the PodDisruptionBudget", b.Spec.Selector)
		}
		for _, n := range of[*networkingv1.NetworkPolicy](all) {
			selects("the NetworkPolicy", &n.Spec.PodSelector)
			among := func(what string, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer) bool {
				if len(peers) != 1 || peers[0].PodSelector == nil || len(ports) != 1 || ports[0].Port.IntVal != 15014 {
					return false
				}
				selects(what, peers[0].PodSelector)
				return peers[0].NamespaceSelector == nil
			}
			if !slices.ContainsFunc(n.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return among("ingress", r.Ports, r.From) }) ||
				!slices.ContainsFunc(n.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return among("egress", r.Ports, r.To) }) {
				t.Error("the NetworkPolicy does not let replicas ask each other")
			}
		}
		ports := map[int32]string{}
		for _, p := range service.Spec.Ports {
			ports[p.Port] = p.TargetPort.StrVal
			if !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
				t.Errorf("port %d leads to %q, which no container has", p.Port, p.TargetPort.StrVal)
			}
		}
		if ports[443] == "" || ports[15012] == "" || ports[15014] == "" {
			t.Errorf("the Service has %v", ports)
		}
		account := of[*corev1.ServiceAccount](all)[0].Name
		if d.Spec.Template.Spec.ServiceAccountName != account {
			t.Errorf("the pods run as %s, the account is %s", d.Spec.Template.Spec.ServiceAccountName, account)
		}
		for _, b := range of[*rbacv1.ClusterRoleBinding](all) {
			if b.RoleRef.Name != of[*rbacv1.ClusterRole](all)[0].Name || b.Subjects[0].Name != account || b.Subjects[0].Namespace != namespace {
				t.Errorf("the ClusterRoleBinding gives %s to %v", b.RoleRef.Name, b.Subjects)
			}
		}
	})
}

// TestWebhooks: they call the Service of their own revision, fail closed, and their configurations are those that may be written.
func TestWebhooks(t *testing.T) {
	everyVariant(t, func(t *testing.T, _ string, all rendered) {
		m, v := of[*admission.MutatingWebhookConfiguration](all)[0], of[*admission.ValidatingWebhookConfiguration](all)[0]
		service := of[*corev1.Service](all)[0].Name
		args := strings.Join(of[*appsv1.Deployment](all)[0].Spec.Template.Spec.Containers[0].Args, " ")
		bare := strings.Contains(args, "--alone") || strings.Contains(args, "--take-over")
		names := []string{}
		for _, w := range m.Webhooks {
			names = append(names, w.Name)
			if *w.FailurePolicy != admission.Fail || w.ClientConfig.Service.Name != service || *w.ClientConfig.Service.Path != "/inject" || len(w.MatchConditions) == 0 {
				t.Errorf("%s: %+v", w.Name, w)
			}
			if !strings.Contains(w.NamespaceSelector.String(), "kube-system") || !strings.Contains(w.NamespaceSelector.String(), namespace) {
				t.Errorf("%s takes system namespaces: %s", w.Name, w.NamespaceSelector)
			}
		}
		if want := 2; bare && len(names) != 4 || !bare && len(names) != want {
			t.Errorf("webhooks %v, where the bare label is ours: %t", names, bare)
		}
		for _, w := range v.Webhooks {
			policy := admission.Fail
			if w.Name == "meshconfig.validator.signet.dev" {
				policy = admission.Ignore
			}
			if *w.FailurePolicy != policy || w.ClientConfig.Service.Name != service || *w.ClientConfig.Service.Path != "/validate" || w.NamespaceSelector == nil {
				t.Errorf("%s: %+v", w.Name, w)
			}
		}
		for _, rule := range of[*rbacv1.ClusterRole](all)[0].Rules {
			if slices.Contains(rule.Resources, "mutatingwebhookconfigurations") && !slices.Equal(rule.ResourceNames, []string{m.Name}) ||
				slices.Contains(rule.Resources, "validatingwebhookconfigurations") && !slices.Equal(rule.ResourceNames, []string{v.Name}) {
				t.Errorf("the control plane may write %v, and its own are %s and %s", rule.ResourceNames, m.Name, v.Name)
			}
		}
	})
}

var ruleLine = regexp.MustCompile(`^  - (apiGroups|nonResourceURLs|resources|verbs):`)

// TestReasons: each rule of RBAC says why, and none has a wildcard, reads all Secrets or may give itself more.
func TestReasons(t *testing.T) {
	rules := 0
	for doc := range strings.SplitSeq(mustTemplate(t, "default", "rootNamespace=elsewhere", "tokenReview=true"), "\n---") {
		if !strings.Contains(doc, "kind: ClusterRole\n") && !strings.Contains(doc, "kind: Role\n") {
			continue
		}
		lines := strings.Split(doc, "\n")
		for i, line := range lines {
			if ruleLine.MatchString(line) {
				rules++
				if reason, ok := strings.CutPrefix(lines[i-1], "  # reason: "); !ok || len(reason) < 15 {
					t.Errorf("no reason before: %s", line)
				}
			}
		}
	}
	var typed int
	everyVariant(t, func(t *testing.T, _ string, all rendered) {
		for _, c := range of[*rbacv1.ClusterRole](all) {
			modest(t, c.Name, c.Rules, true)
		}
		for _, r := range of[*rbacv1.Role](all) {
			modest(t, r.Name, r.Rules, false)
		}
	})
	all := render(t, "default", "rootNamespace=elsewhere", "tokenReview=true")
	for _, c := range of[*rbacv1.ClusterRole](all) {
		typed += len(c.Rules)
	}
	for _, r := range of[*rbacv1.Role](all) {
		typed += len(r.Rules)
	}
	if rules != typed || rules < 20 {
		t.Errorf("%d rules were found in the text, and there are %d", rules, typed)
	}
}

func modest(t *testing.T, name string, rules []rbacv1.PolicyRule, everywhere bool) {
	t.Helper()
	for _, r := range rules {
		for _, list := range [][]string{r.Verbs, r.Resources, r.APIGroups, r.NonResourceURLs} {
			if slices.Contains(list, "*") {
				t.Errorf("%s has a wildcard: %v", name, r)
			}
		}
		for _, verb := range []string{"impersonate", "bind", "escalate", "approve"} {
			if slices.Contains(r.Verbs, verb) {
				t.Errorf("%s may %s: %v", name, verb, r)
			}
		}
		if slices.Contains(r.Resources, "secrets") && (everywhere || len(r.ResourceNames) == 0 && !slices.Equal(r.Verbs, []string{"create"})) {
			t.Errorf("%s reaches Secrets that are not its own: %v", name, r)
		}
		if slices.Contains(r.Resources, "configmaps") && everywhere && len(r.ResourceNames) == 0 && !slices.Equal(r.Verbs, []string{"create"}) {
			t.Errorf("%s reaches all ConfigMaps: %v", name, r)
		}
	}
}

// TestRevisions: two revisions share no object, the CustomResourceDefinitions apart.
func TestRevisions(t *testing.T) {
	one, two := documents(t, mustTemplate(t, "default")), documents(t, mustTemplate(t, "default", "revision=canary", "alone=false"))
	for key := range one {
		if two[key] != nil && !strings.HasPrefix(key, "CustomResourceDefinition ") {
			t.Errorf("both revisions have %s", key)
		}
	}
	if len(one) != len(two) {
		t.Errorf("%d and %d objects", len(one), len(two))
	}
}
