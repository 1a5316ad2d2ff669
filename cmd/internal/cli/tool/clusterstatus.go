package tool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/plane"
)

const (
	// maxStatusPods bounds how many sidecars `status` asks.
	maxStatusPods = 100
	// atOnce is how many pods are asked at the same time.
	atOnce = 16
)

// replicaStatus is one pod of the control plane. Error is why it did not answer.
type replicaStatus struct {
	Pod     string `json:"pod"`
	Ready   bool   `json:"ready"`
	Proxies int    `json:"proxies"` // connected ones
	Error   string `json:"error,omitempty"`
}

// status asks every replica of the control plane, and the sidecars of pods that are named.
func (k *cluster) status(ctx context.Context, names []string) (*meshStatus, error) {
	out := &meshStatus{Cluster: k.name, Sidecars: []sidecarStatus{}, Silent: []string{}}
	pods, err := k.named(ctx, names, out)
	if err != nil {
		return nil, err
	}
	found, err := k.control(ctx)
	if err == nil && !found.runs() {
		err = k.away(ctx, found)
	}
	if err != nil {
		if len(pods) == 0 {
			return nil, err
		}
		out.Silent = append(out.Silent, "control plane: "+err.Error()) // who may see pods of one namespace alone
	} else {
		out.Control = k.askControl(ctx, found.pods, out)
		k.missing(ctx, out.Control)
	}
	k.askSidecars(ctx, pods, out)
	out.sort()
	if out.Control == nil && len(out.Sidecars) == 0 {
		return nil, fmt.Errorf("asking cluster %s for status: nothing answers\n  %s", k.name, strings.Join(out.Silent, "\n  "))
	}
	return out, nil
}

// connectTime is how old an injected pod may be without a sidecar that is connected.
const connectTime = 30 * time.Second

// missing adds the injected pods whose sidecars no replica knows, as not connected. Who may not list the pods of --namespace, or of all
// namespaces, sees those that connected only.
func (k *cluster) missing(ctx context.Context, c *plane.Status) {
	pods, err := k.pods(ctx, k.remote.namespace, "")
	if err != nil || c == nil {
		return
	}
	known := map[string]bool{}
	for _, p := range c.Proxies {
		known[p.Workload] = true
	}
	for _, p := range pods {
		over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil
		if name := p.Namespace + "/" + p.Name; injected(p) && !over && !known[name] && time.Since(p.CreationTimestamp.Time) > connectTime {
			c.Proxies = append(c.Proxies, plane.ProxyStatus{Workload: name, Since: p.CreationTimestamp.Time, Pod: stateOf(p)})
		}
	}
}

// named are the pods whose sidecars are asked.
func (k *cluster) named(ctx context.Context, names []string, out *meshStatus) ([]*corev1.Pod, error) {
	if len(names) == 0 && k.remote.namespace == "" {
		return nil, nil
	}
	var pods []*corev1.Pod
	if len(names) == 0 {
		some, all, err := k.sidecars(ctx, maxStatusPods)
		if err != nil {
			return nil, err
		}
		if all > len(some) {
			out.Silent = append(out.Silent, fmt.Sprintf("%d of %d sidecars were asked: name others", len(some), all))
		}
		pods = some
	}
	for _, n := range names {
		found, err := k.owned(ctx, n)
		if err != nil {
			return nil, err
		}
		armed := slices.DeleteFunc(found, func(p *corev1.Pod) bool { return !injected(p) })
		if len(armed) == 0 {
			return nil, cli.Mistake(fmt.Errorf("%s has no sidecar of Signet", n))
		}
		pods = append(pods, armed...)
	}
	if len(pods) > maxStatusPods {
		return nil, cli.Mistake(fmt.Errorf("%d pods are named, more than %d", len(pods), maxStatusPods))
	}
	return pods, nil
}

// askControl asks the replicas and makes one status of theirs; nil if none answers.
func (k *cluster) askControl(ctx context.Context, replicas []*corev1.Pod, out *meshStatus) *plane.Status {
	answers, errs := make([]plane.Status, len(replicas)), make([]error, len(replicas))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, p := range replicas {
		if !started(p) {
			errs[i] = errors.New(stateOf(p))
			continue
		}
		g.Go(func() error {
			t := k.target(p.Namespace, p.Name, controlPort)
			defer t.Client.CloseIdleConnections()
			errs[i] = t.Call(ctx, http.MethodGet, "/status", nil, &answers[i])
			return nil
		})
	}
	_ = g.Wait() // none fails
	var good []plane.Status
	for i, p := range replicas {
		r := replicaStatus{Pod: p.Namespace + "/" + p.Name, Ready: ready(p)}
		if errs[i] != nil {
			r.Error = errs[i].Error()
			out.Silent = append(out.Silent, fmt.Sprintf("control plane at pod %s: %v", r.Pod, errs[i]))
		} else {
			good = append(good, answers[i])
		}
		for _, x := range answers[i].Proxies {
			if x.Connected {
				r.Proxies++
			}
		}
		out.Replicas = append(out.Replicas, r)
	}
	return mergeControl(good)
}

// mergeControl is what replicas say together: a proxy is connected to one of them, and they judge the same objects.
func mergeControl(all []plane.Status) *plane.Status {
	if len(all) == 0 {
		return nil
	}
	out := plane.Status{TrustDomain: all[0].TrustDomain, Problems: []plane.Problem{}, Proxies: []plane.ProxyStatus{}}
	proxies := map[string]plane.ProxyStatus{}
	for _, s := range all {
		out.Objects = max(out.Objects, s.Objects)
		for _, p := range s.Problems {
			if !slices.Contains(out.Problems, p) {
				out.Problems = append(out.Problems, p)
			}
		}
		for _, p := range s.Proxies {
			have, ok := proxies[p.Workload]
			if !ok || p.Connected && !have.Connected || p.Connected == have.Connected && p.Since.After(have.Since) {
				proxies[p.Workload] = p
			}
		}
	}
	for _, p := range proxies {
		out.Proxies = append(out.Proxies, p)
	}
	slices.SortFunc(out.Proxies, func(a, b plane.ProxyStatus) int { return strings.Compare(a.Workload, b.Workload) })
	return &out
}

func (k *cluster) askSidecars(ctx context.Context, pods []*corev1.Pod, out *meshStatus) {
	answers, errs := make([]sidecarStatus, len(pods)), make([]error, len(pods))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, p := range pods {
		g.Go(func() error {
			t := k.target(p.Namespace, p.Name, adminPort)
			defer t.Client.CloseIdleConnections()
			errs[i] = t.Call(ctx, http.MethodGet, "/status", nil, &answers[i])
			return nil
		})
	}
	_ = g.Wait() // none fails
	for i, p := range pods {
		if errs[i] != nil {
			out.Silent, out.mute = append(out.Silent, fmt.Sprintf("sidecar of pod %s/%s: %v", p.Namespace, p.Name, errs[i])), true
			continue
		}
		out.Sidecars = append(out.Sidecars, answers[i])
	}
}

// writeReplicas shows the control plane's pods, and the proxies that they know where no sidecar was asked itself.
func (s *meshStatus) writeReplicas(w io.Writer) {
	fmt.Fprintf(w, "CLUSTER\t%s\n\nCONTROL PLANE\tREADY\tANSWERS\tSIDECARS\n", s.Cluster)
	for _, r := range s.Replicas {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", r.Pod, yesNo(r.Ready), yesNo(r.Error == ""), r.Proxies)
	}
	fmt.Fprintln(w)
	if s.Control == nil || len(s.Sidecars) > 0 {
		return
	}
	fmt.Fprintln(w, "SIDECAR\tCONNECTED\tIN SYNC\tSINCE\tNOTE")
	for _, p := range s.Control.Proxies {
		note := "-"
		if p.Refusal != "" {
			note = "keeps its last good configuration: " + oneLine(p.Refusal)
		}
		if p.Pod != "" {
			note = "its pod: " + p.Pod
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Workload, yesNo(p.Connected), yesNo(p.InSync), p.Since.UTC().Format(time.RFC3339), note)
	}
}
