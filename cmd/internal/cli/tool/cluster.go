package tool

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
)

// connect asks the sidecars of pods whose they are.
func (k *cluster) connect(ctx context.Context, pods []*corev1.Pod, bare ...string) (*explain.Live, error) {
	var targets []*explain.Target
	for _, p := range pods {
		targets = append(targets, k.target(p.Namespace, p.Name, adminPort))
	}
	live, err := explain.ConnectPods(ctx, targets, bare...)
	if err != nil {
		return nil, fmt.Errorf("asking sidecars of cluster %s: %w", k.name, err)
	}
	return live, nil
}

// why asks one pod of the caller and one of the server.
func (k *cluster) why(ctx context.Context, q *explain.Question) (*explain.Answer, error) {
	var notes, bare []string
	workload, port, given := strings.Cut(q.To, ":")
	to, note, err := k.one(ctx, workload)
	if err != nil {
		return nil, fmt.Errorf("finding --to: %w", err)
	}
	notes = append(notes, note)
	if !injected(to) {
		return nil, fmt.Errorf("pod %s/%s has no sidecar of Signet: nothing judges what it gets", to.Namespace, to.Name)
	}
	asked := *q
	asked.To, asked.ToIP = to.Namespace+"/"+to.Name, to.Status.PodIP
	if given {
		asked.To += ":" + port
	}
	pods := []*corev1.Pod{to}
	if q.From != explain.Plaintext && !strings.Contains(q.From, "://") {
		from, note, err := k.one(ctx, q.From)
		if err != nil {
			return nil, fmt.Errorf("finding --from: %w", err)
		}
		notes = append(notes, note)
		asked.From = from.Namespace + "/" + from.Name
		switch {
		case !injected(from):
			bare = append(bare, asked.From)
			if asked.SourceIP == "" {
				asked.SourceIP = from.Status.PodIP
			}
		case from.UID != to.UID:
			pods = append(pods, from)
		}
	}
	live, err := k.connect(ctx, pods, bare...)
	if err != nil {
		return nil, err
	}
	defer live.Close()
	a, err := live.Why(ctx, &asked)
	if err != nil {
		return nil, cli.Mistake(err)
	}
	notes = slices.DeleteFunc(notes, func(n string) bool { return n == "" })
	a.Notes = append(notes, a.Notes...)
	return a, nil
}
