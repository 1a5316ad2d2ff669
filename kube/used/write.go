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

// The forms of times in a ConfigMap, in UTC: that of hosts' days, and that of a workload's last use, which follows head in the
// first line.
const (
	dayFormat  = time.DateOnly
	timeFormat = "2006-01-02T15:04:05.000Z"
	head       = "# used "
)

const daySeconds = int64(24 * time.Hour / time.Second)

// stored is what a ConfigMap says of one workload.
type stored struct {
	used  time.Time
	hosts map[string]int64 // the day of each, since 1970
}

// parse reads the lines of one workload: "# used TIME" and HOST DAY. What is no such line is passed over. Nothing was used later
// than now; without the first line it was when the day of the last host began.
func parse(text string, now time.Time) stored {
	out := stored{hosts: map[string]int64{}}
	last, today := time.Time{}, now.Unix()/daySeconds
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if at, ok := strings.CutPrefix(line, head); ok {
			out.used, _ = time.Parse(timeFormat, at)
			continue
		}
		host, day, ok := strings.Cut(line, " ")
		at, err := time.Parse(dayFormat, day)
		if ok && err == nil && isHost(host) && len(out.hosts) < MaxHosts {
			out.hosts[host] = min(at.Unix()/daySeconds, today)
			last = later(last, at)
		}
	}
	if out.used = later(out.used, last); out.used.After(now) {
		out.used = now
	}
	return out
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// format is what parse reads.
func format(used time.Time, hosts map[string]use, since int64) string {
	var b strings.Builder
	b.WriteString(head + used.UTC().Format(timeFormat) + "\n")
	for _, host := range recent(hosts, since) {
		b.WriteString(host + " " + time.Unix(hosts[host].day*daySeconds, 0).UTC().Format(dayFormat) + "\n")
	}
	return b.String()
}

// write writes the workloads that changed, one patch for each namespace. What fails is tried again the next time.
func (u *Used) write(ctx context.Context) {
	u.mu.Lock()
	names := slices.Sorted(maps.Keys(u.known))
	u.mu.Unlock()
	for _, ns := range names {
		data := u.take(ns)
		if len(data) == 0 {
			continue
		}
		said := ""
		if err := u.patch(ctx, ns, data); err != nil {
			u.giveBack(ns, data)
			said = err.Error()
		}
		u.mu.Lock()
		n := u.in(ns)
		news := said != "" && n.said != said
		n.said = said
		u.mu.Unlock()
		if news {
			u.cfg.Log.Warn("used hosts can't be saved: proxies that start will ask for them", "namespace", ns, "error", said)
		}
	}
}

// take is what is to be written of a namespace: text by workload, null for one that is forgotten. Only copying needs the lock,
// one workload at a time.
func (u *Used) take(ns string) map[string]*string {
	since := u.oldest()
	data := map[string]*string{}
	for _, name := range u.changed(ns, since, data) {
		u.mu.Lock()
		w := u.in(ns).workloads[name]
		if w == nil { // forgotten meanwhile
			u.mu.Unlock()
			continue
		}
		w.dirty, w.saved = false, true
		used, hosts := w.used, maps.Clone(w.hosts)
		u.mu.Unlock()
		text := format(used, hosts, since)
		data[name] = &text
	}
	return data
}

// changed are the workloads that are to be written. Those that are forgotten, also for want of any use since a day, get a null
// in data.
func (u *Used) changed(ns string, since int64, data map[string]*string) (dirty []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.in(ns)
	for name, w := range n.workloads {
		switch {
		case w.used.Unix()/daySeconds < since:
			n.drop(name)
		case w.dirty:
			dirty = append(dirty, name)
		}
	}
	for name := range n.gone {
		data[name] = nil
	}
	clear(n.gone)
	if len(n.workloads)+len(data) == 0 {
		delete(u.known, ns)
	}
	return dirty
}

func (u *Used) giveBack(ns string, data map[string]*string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.in(ns)
	for name, text := range data {
		switch w := n.workloads[name]; {
		case w != nil:
			w.dirty = true
		case text == nil:
			n.gone[name] = true
		}
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
