package used

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/signet-mesh/signet/kube"
)

// dayFormat is that of the days in a ConfigMap, in UTC.
const dayFormat = time.DateOnly

const daySeconds = int64(24 * time.Hour / time.Second)

// parse reads the lines of one workload: HOST DAY. What is no such line is passed over.
func parse(text string) map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		host, day, ok := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(dayFormat, day)
		if ok && err == nil && isHost(host) && len(out) < MaxHosts {
			out[host] = at.Unix() / daySeconds
		}
	}
	return out
}

// format is what parse reads.
func (w *workload) format(since int64) string {
	var b strings.Builder
	for _, host := range w.recent(since) {
		b.WriteString(host + " " + time.Unix(w.hosts[host]*daySeconds, 0).UTC().Format(dayFormat) + "\n")
	}
	return b.String()
}

// write writes the workloads that changed, one patch for each namespace. What fails is tried again the next time.
func (u *Used) write(ctx context.Context) {
	u.mu.Lock()
	names := slices.Sorted(maps.Keys(u.known))
	u.mu.Unlock()
	for _, ns := range names {
		data, left := u.take(ns)
		if len(data) == 0 && left == 0 {
			continue
		}
		said := ""
		if err := u.patch(ctx, ns, data); err != nil {
			u.giveBack(ns, data)
			said = err.Error()
		} else if left > 0 {
			said = "its ConfigMap is full"
		}
		u.mu.Lock()
		news := said != "" && u.known[ns].said != said
		u.known[ns].said = said
		u.mu.Unlock()
		if news {
			u.cfg.Log.Warn("used hosts can't all be saved: proxies that start will ask for them", "namespace", ns, "error", said)
		}
	}
}

// take is what is to be written of a namespace: text by workload, null for one that is forgotten; and how many had no room.
func (u *Used) take(ns string) (data map[string]*string, left int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, since := u.known[ns], u.oldest()
	data = map[string]*string{}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(n.workloads)) {
		w := n.workloads[name]
		text := w.format(since)
		if text == "" { // all of it is older than Forget
			delete(n.workloads, name)
			data[name] = nil
			continue
		}
		if size += len(name) + len(text); size > maxConfigMap {
			if w.dirty {
				left++
			}
			continue
		}
		if w.dirty {
			w.dirty = false
			data[name] = &text
		}
	}
	return data, left
}

func (u *Used) giveBack(ns string, data map[string]*string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name := range data {
		u.at(ns, name).dirty = true
	}
}

// patch merges data into the ConfigMap of a namespace, so that workloads that others write stay.
func (u *Used) patch(ctx context.Context, ns string, data map[string]*string) error {
	if len(data) == 0 {
		return nil
	}
	body, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	client := u.cfg.Client.CoreV1().ConfigMaps(u.cfg.Namespace)
	name := kube.UsedConfigMap + ns
	_, err = client.Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Label: "true"}}, Data: map[string]string{}}
	for k, v := range data {
		if v != nil {
			c.Data[k] = *v
		}
	}
	_, err = client.Create(ctx, c, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // another replica was first
		_, err = client.Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{})
	}
	return err
}
