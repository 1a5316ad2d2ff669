package tool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/kube"
)

const (
	// pageSize is how many objects one answer of the API server holds.
	pageSize = 500
	// maxPods bounds how many pods are looked at.
	maxPods = 20_000
)

// namespaces are the names of those that there are.
func (r *remote) namespaces(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, completeWait)
	defer cancel()
	k, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	list, err := k.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range list.Items {
		out = append(out, list.Items[i].Name)
	}
	return out, nil
}

// pods lists pods of a namespace, "" for all, that are of labels.
func (k *cluster) pods(ctx context.Context, namespace, selector string) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	opts := metav1.ListOptions{Limit: pageSize, LabelSelector: selector}
	for {
		list, err := k.client.CoreV1().Pods(namespace).List(ctx, opts)
		if err != nil {
			return nil, listing("pods", namespace, err)
		}
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return out, nil
		}
		if len(out) >= maxPods {
			return nil, fmt.Errorf("listing pods: there are more than %d; name a namespace with --namespace", maxPods)
		}
	}
}

// listing says what a person can do about an error.
func listing(what, namespace string, err error) error {
	in := "in all namespaces"
	if namespace != "" {
		in = fmt.Sprintf("in namespace %q", namespace)
	}
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("listing %s %s: your credentials need the verbs get and list on %s: %w", what, in, what, err)
	}
	return fmt.Errorf("listing %s %s: %w", what, in, err)
}

// injected reports whether a pod has our sidecar, and not another mesh's: the token that ours proves itself with.
func injected(p *corev1.Pod) bool {
	proxy := func(c corev1.Container) bool { return c.Name == kube.ProxyContainer }
	return (slices.ContainsFunc(p.Spec.InitContainers, proxy) || slices.ContainsFunc(p.Spec.Containers, proxy)) &&
		slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == kube.TokenVolume })
}

func running(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
}

func ready(p *corev1.Pod) bool {
	return running(p) && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// ownedBy reports whether a pod belongs to what people call by that name: its Deployment, StatefulSet, DaemonSet, Job, CronJob...
func ownedBy(p *corev1.Pod, name string) bool {
	o := metav1.GetControllerOf(p)
	if o == nil {
		return false
	}
	if o.Name == name {
		return true
	}
	switch o.Kind {
	case "ReplicaSet": // of a Deployment: NAME-HASH
		hash := p.Labels["pod-template-hash"]
		return hash != "" && o.Name == name+"-"+hash
	case "Job": // of a CronJob: NAME-MINUTES
		minutes, ok := strings.CutPrefix(o.Name, name+"-")
		return ok && len(minutes) >= 8 && strings.Trim(minutes, "0123456789") == ""
	}
	return false
}

// owned are the pods that NAMESPACE/NAME means: the pod of that name, else those of what is called so, else those behind the
// Service of that name. What runs and is ready comes first.
func (k *cluster) owned(ctx context.Context, name string) ([]*corev1.Pod, error) {
	namespace, short, err := k.split(name)
	if err != nil {
		return nil, err
	}
	pod, err := k.client.CoreV1().Pods(namespace).Get(ctx, short, metav1.GetOptions{})
	if err == nil {
		return []*corev1.Pod{pod}, nil
	}
	if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) { // who may list but not get can go on
		return nil, listing("pods", namespace, err)
	}
	all, err := k.pods(ctx, namespace, "")
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p *corev1.Pod) bool { return !running(p) })
	var found []*corev1.Pod
	for _, p := range all {
		if ownedBy(p, short) {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		if found, err = k.behind(ctx, namespace, short, all); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, cli.Mistake(fmt.Errorf("there is no pod %s/%s, and no running pod of a Deployment, StatefulSet, DaemonSet, Job or Service of that name", namespace, short))
	}
	slices.SortFunc(found, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Name, b.Name))
	})
	return found, nil
}

// behind are those of a namespace's pods that its Service of that name selects; none where there is none, or where it may not be
// read.
func (k *cluster) behind(ctx context.Context, namespace, service string, all []*corev1.Pod) ([]*corev1.Pod, error) {
	s, err := k.client.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || err == nil && len(s.Spec.Selector) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, listing("services", namespace, err)
	}
	selected := labels.SelectorFromSet(s.Spec.Selector)
	return slices.DeleteFunc(all, func(p *corev1.Pod) bool { return !selected.Matches(labels.Set(p.Labels)) }), nil
}

// rank orders pods to ask: those that can answer first.
func rank(p *corev1.Pod) int {
	switch {
	case ready(p) && injected(p):
		return 0
	case injected(p):
		return 1
	}
	return 2
}

// split reads NAMESPACE/NAME; a name alone is of --namespace.
func (k *cluster) split(name string) (namespace, short string, err error) {
	namespace, short, ok := strings.Cut(name, "/")
	if !ok {
		namespace, short = k.remote.namespace, name
	}
	if namespace == "" || short == "" || strings.Contains(short, "/") {
		return "", "", cli.Mistake(fmt.Errorf("%q: want NAMESPACE/WORKLOAD or NAMESPACE/POD", name))
	}
	return namespace, short, nil
}

// one is the pod to ask, and a note where it is one of several.
func (k *cluster) one(ctx context.Context, name string) (*corev1.Pod, string, error) {
	found, err := k.owned(ctx, name)
	if err != nil {
		return nil, "", err
	}
	p := found[0]
	if p.Name == name || strings.HasSuffix(name, "/"+p.Name) {
		return p, "", nil
	}
	return p, fmt.Sprintf("%s is asked as its pod %s/%s, one of %d", name, p.Namespace, p.Name, len(found)), nil
}

// sidecars are the injected, running pods of --namespace, else of all namespaces; at most limit, and how many there are.
func (k *cluster) sidecars(ctx context.Context, limit int) (some []*corev1.Pod, all int, err error) {
	pods, err := k.pods(ctx, k.remote.namespace, "")
	if err != nil {
		return nil, 0, err
	}
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return !injected(p) || !running(p) })
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return pods[:min(len(pods), limit)], len(pods), nil
}
