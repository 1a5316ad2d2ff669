package used

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// namespace is what is known of one namespace's workloads. Used.mu guards it.
type namespace struct {
	workloads map[string]*workload
	// size is what the workloads' names and texts take in the ConfigMap, at most; in bytes.
	size int
	// gone are forgotten workloads that the ConfigMap has still.
	gone map[string]bool
	said string // the last error of writing it
}

// workload is what one workload calls.
type workload struct {
	hosts map[string]use
	// used is when the workload used any of them last, as it is saved.
	used time.Time
	size int // of its name and text, at most; in bytes
	// dirty: the ConfigMap lacks something that this process was told of. saved: the ConfigMap has the workload.
	dirty, saved bool
}

// use is what is known of one host.
type use struct {
	day int64 // on which it was last asked for, since 1970
	// own: this process was told of it, so that it must be in the ConfigMap, whoever writes that.
	own bool
}

// headSize is that of the line that says when the workload was used.
const headSize = len(head) + len(timeFormat) + 1

// lineSize is that of a host's line without the host: a space, the day and the line's end.
const lineSize = 1 + len(dayFormat) + 1

// in is a namespace, made if there is none. The lock is held.
func (u *Used) in(ns string) *namespace {
	n := u.known[ns]
	if n == nil {
		n = &namespace{workloads: map[string]*workload{}, gone: map[string]bool{}}
		u.known[ns] = n
	}
	return n
}

// at is a workload, made if there is none.
func (n *namespace) at(name string) *workload {
	w := n.workloads[name]
	if w == nil {
		w = &workload{hosts: map[string]use{}, saved: n.gone[name], size: len(name) + headSize}
		delete(n.gone, name)
		n.workloads[name] = w
		n.size += w.size
	}
	return w
}

// set notes the use of a host.
func (n *namespace) set(w *workload, host string, u use) {
	if _, have := w.hosts[host]; !have {
		w.size += len(host) + lineSize
		n.size += len(host) + lineSize
	}
	w.hosts[host] = u
}

// trim forgets what recent leaves out where there is too much.
func (n *namespace) trim(w *workload, since int64) {
	if len(w.hosts) <= MaxHosts {
		return
	}
	all := w.hosts
	n.size -= w.size
	for h := range all {
		w.size -= len(h) + lineSize
	}
	n.size += w.size
	w.hosts = make(map[string]use, MaxHosts)
	for _, h := range recent(all, since) {
		n.set(w, h, all[h])
	}
}

// drop forgets a workload.
func (n *namespace) drop(name string) {
	w := n.workloads[name]
	delete(n.workloads, name)
	n.size -= w.size
	if w.saved {
		n.gone[name] = true
	}
}

// fit forgets workloads while there are too many or they take too much room.
func (n *namespace) fit() {
	fits := func() bool { return len(n.workloads) <= MaxWorkloads && n.size <= maxConfigMap }
	if fits() {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(n.workloads), func(a, b string) int {
		x, y := n.workloads[a], n.workloads[b]
		return cmp.Or(x.used.Compare(y.used), strings.Compare(a, b))
	})
	for _, name := range oldest {
		if fits() {
			return
		}
		n.drop(name)
	}
}

// recent are the hosts that were asked for since a day, latest first, those of one day by name; at most MaxHosts.
func recent(hosts map[string]use, since int64) []string {
	out := make([]string, 0, len(hosts))
	for h, u := range hosts {
		if u.day >= since {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(hosts[b].day, hosts[a].day), strings.Compare(a, b)) })
	return out[:min(len(out), MaxHosts)]
}
