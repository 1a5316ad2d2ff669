// Package used remembers which hosts each workload of a cluster calls, so that a proxy that starts is given them before it
// asks.
//
// A workload is NAMESPACE/OWNER: all pods of a Deployment are one. The hosts of a namespace's workloads are kept in one
// ConfigMap of the system namespace (kube.UsedConfigMap + NAMESPACE), with a key for each workload and a line for each host:
// the host and the day on which it was last asked for. Every replica of the control plane reads them through an informer and
// writes what it learned, at most once in five seconds for a namespace; what two replicas learn at once is united.
package used

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/kube"
)

const (
	// MaxHosts is how many hosts of one workload are remembered, the most recently asked first.
	MaxHosts = 1000
	// Forget is how long a host is remembered that nobody asks for.
	Forget = 30 * 24 * time.Hour
	// every is the time between two writes of one namespace.
	every = 5 * time.Second
	// lastWrite bounds the write when the process ends.
	lastWrite = 2 * time.Second
	// maxConfigMap bounds the data of one ConfigMap, in bytes; the API server takes 1 MiB.
	maxConfigMap = 900 << 10
	// Label marks the ConfigMaps, so that no others are watched.
	Label = "signet.dev/used"
)

// Config is what New takes.
type Config struct {
	Client kubernetes.Interface
	// Namespace is the system namespace; "" is kube.SystemNamespace.
	Namespace string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Every is the time between two writes; 0 is 5 s.
	Every time.Duration
	Log   *slog.Logger
}

// Used is that memory. Safe for concurrent use.
type Used struct {
	cfg      Config
	informer cache.SharedIndexInformer
	handled  cache.ResourceEventHandlerRegistration

	mu    sync.Mutex // guards what follows
	known map[string]*namespace
}

// namespace is what is known of one namespace's workloads.
type namespace struct {
	workloads map[string]*workload
	said      string // the last error of writing it
}

// workload is what one workload calls: the day of each host, in days since 1970.
type workload struct {
	hosts map[string]int64
	// own are the hosts that this process was told of: they must be in the ConfigMap, whoever writes it.
	own map[string]bool
	// dirty: the ConfigMap lacks something of own.
	dirty bool
}

// New is pure: nothing is asked before Run.
func New(c Config) (*Used, error) {
	if c.Client == nil || c.Log == nil {
		return nil, errors.New("building memory of used hosts: Client and Log must be set")
	}
	c.Namespace = cmp.Or(c.Namespace, kube.SystemNamespace)
	c.Every = cmp.Or(c.Every, every)
	if c.Now == nil {
		c.Now = time.Now
	}
	u := &Used{cfg: c, known: map[string]*namespace{}}
	u.informer = coreinformers.NewFilteredConfigMapInformer(c.Client, c.Namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.LabelSelector = Label + "=true"
	})
	var err error
	u.handled, err = u.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: u.read, UpdateFunc: func(_, now any) { u.read(now) }})
	if err == nil {
		err = u.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			if ctx.Err() == nil {
				c.Log.Warn("watching the ConfigMaps of used hosts fails", "error", err)
			}
		})
	}
	if err != nil {
		return nil, fmt.Errorf("building memory of used hosts: %w", err)
	}
	return u, nil
}

// Synced reports whether what was remembered before has been read.
func (u *Used) Synced() bool { return u.informer.HasSynced() && u.handled.HasSynced() }

// Names are the hosts that a workload has used, the most recently asked first.
func (u *Used) Names(ns, name string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.known[ns]
	if n == nil || n.workloads[name] == nil {
		return nil
	}
	return n.workloads[name].recent(u.oldest())
}

// Note is told of hosts that a workload used now.
func (u *Used) Note(ns, name string, hosts []string) {
	if len(validation.IsDNS1123Label(ns)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	w, today := u.at(ns, name), u.today()
	for _, host := range hosts {
		if !isHost(host) {
			continue
		}
		if w.hosts[host] != today || !w.own[host] {
			w.hosts[host], w.own[host], w.dirty = today, true, true
		}
	}
	w.trim(u.oldest())
}

// at is a workload, made if there is none. The lock is held.
func (u *Used) at(ns, name string) *workload {
	n := u.known[ns]
	if n == nil {
		n = &namespace{workloads: map[string]*workload{}}
		u.known[ns] = n
	}
	w := n.workloads[name]
	if w == nil {
		w = &workload{hosts: map[string]int64{}, own: map[string]bool{}}
		n.workloads[name] = w
	}
	return w
}

func (u *Used) today() int64  { return u.cfg.Now().Unix() / int64(24*time.Hour/time.Second) }
func (u *Used) oldest() int64 { return u.today() - int64(Forget/(24*time.Hour)) }

// isHost takes what may be a line: a host name, with a wildcard or an underscore if need be.
func isHost(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-._*", r)
	})
}

// recent are the hosts that were asked for since a day, latest first, those of one day by name; at most MaxHosts.
func (w *workload) recent(since int64) []string {
	out := slices.Collect(maps.Keys(w.hosts))
	out = slices.DeleteFunc(out, func(h string) bool { return w.hosts[h] < since })
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(w.hosts[b], w.hosts[a]), strings.Compare(a, b)) })
	return out[:min(len(out), MaxHosts)]
}

// trim forgets what recent leaves out.
func (w *workload) trim(since int64) {
	if len(w.hosts) <= MaxHosts {
		return
	}
	kept := make(map[string]int64, MaxHosts)
	for _, h := range w.recent(since) {
		kept[h] = w.hosts[h]
	}
	w.hosts = kept
	maps.DeleteFunc(w.own, func(h string, _ bool) bool { _, ok := kept[h]; return !ok })
}

// Run reads what is kept and writes what is learned until ctx ends, and once more then; it returns nil.
func (u *Used) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { u.informer.RunWithContext(ctx); return nil })
	g.Go(func() error {
		tick := time.NewTicker(u.cfg.Every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				u.write(ctx)
			case <-ctx.Done():
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
				defer cancel()
				u.write(last)
				return nil
			}
		}
	})
	return g.Wait()
}

// read unites what a ConfigMap says with what is known.
func (u *Used) read(o any) {
	c, ok := o.(*corev1.ConfigMap)
	ns, ours := "", false
	if ok {
		ns, ours = strings.CutPrefix(c.Name, kube.UsedConfigMap)
	}
	if !ours {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, text := range c.Data {
		w := u.at(ns, name)
		stored := parse(text)
		for host, day := range stored {
			w.hosts[host] = max(w.hosts[host], min(day, u.today()))
		}
		for host := range w.own {
			if _, ok := stored[host]; !ok { // another replica has written over it
				w.dirty = true
			}
		}
		w.trim(u.oldest())
	}
}
