// Package used remembers which hosts each workload of a cluster calls, so that a proxy that starts is given them before it
// asks.
//
// A workload is NAMESPACE/OWNER: all pods of a Deployment are one. The hosts of a namespace's workloads are kept in one
// ConfigMap of the system namespace (kube.UsedConfigMap + NAMESPACE), with a key for each workload: a line says when it was
// used, to the hour, and one for each host the host and the day on which it was last asked for. Every replica of the control
// plane reads them through an informer and writes what it learned, at most once in five seconds for a namespace; what two
// replicas learn at once is united. A namespace has room for MaxWorkloads and 900 KiB: the least recently used workloads go
// first.
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
	// MaxWorkloads is how many workloads of one namespace are remembered, the least recently used being forgotten first.
	MaxWorkloads = 1000
	// MaxHosts is how many hosts of one workload are remembered, the most recently asked first.
	MaxHosts = 1000
	// Forget is how long a host is remembered that nobody asks for.
	Forget = 30 * 24 * time.Hour
	// grain is how exactly it is known when a workload was used last.
	grain = time.Hour
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

	mu    sync.Mutex // guards what follows; streams wait for it, so that nothing is sorted or formatted under it as a rule
	known map[string]*namespace
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
	u.handled, err = u.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { u.read(nil, o) }, UpdateFunc: u.read})
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
	n := u.known[ns]
	if n == nil || n.workloads[name] == nil {
		u.mu.Unlock()
		return nil
	}
	hosts := maps.Clone(n.workloads[name].hosts)
	u.mu.Unlock()
	return recent(hosts, u.oldest())
}

// Note is told of hosts that a workload used now.
func (u *Used) Note(ns, name string, hosts []string) {
	if len(validation.IsDNS1123Label(ns)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return
	}
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return !isHost(h) })
	if len(hosts) == 0 {
		return
	}
	now, today := u.cfg.Now().Truncate(time.Millisecond), u.today() // as exactly as it is saved
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.in(ns)
	w := n.at(name)
	for _, host := range hosts {
		if have := w.hosts[host]; have != (use{today, true}) {
			n.set(w, host, use{today, true})
			w.dirty = true
		}
	}
	// Replicas must agree on what was used last, so that none forgets what another has just saved: a use counts when it is saved.
	if w.dirty || now.Sub(w.used) >= grain {
		w.used, w.dirty = now, true
	}
	n.trim(w, u.oldest())
	n.fit()
}

func (u *Used) today() int64  { return u.cfg.Now().Unix() / int64(24*time.Hour/time.Second) }
func (u *Used) oldest() int64 { return u.today() - int64(Forget/(24*time.Hour)) }

// isHost takes what may be a line: a host name, with a wildcard or an underscore if need be.
func isHost(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-._*", r)
	})
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

// read unites what a ConfigMap says with what is known. before is nil, or what it said until now: only the difference is looked at.
func (u *Used) read(before, now any) {
	c, ok := now.(*corev1.ConfigMap)
	ns, ours := "", false
	if ok {
		ns, ours = strings.CutPrefix(c.Name, kube.UsedConfigMap)
	}
	if !ours {
		return
	}
	old, _ := before.(*corev1.ConfigMap)
	at := u.cfg.Now()
	said := map[string]stored{}
	for name, text := range c.Data {
		if old == nil || old.Data[name] != text {
			said[name] = parse(text, at)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.in(ns)
	for name, s := range said {
		w := n.at(name)
		w.saved = true
		if s.used.After(w.used) {
			w.used = s.used
		}
		for host, day := range s.hosts {
			if have := w.hosts[host]; day > have.day {
				n.set(w, host, use{day, have.own})
			}
		}
		for host, have := range w.hosts {
			if _, ok := s.hosts[host]; have.own && !ok { // another replica has written over it
				w.dirty = true
			}
		}
		n.trim(w, u.oldest())
	}
	n.fit()
}
