package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/inject"
)

// nativeMinor is the minor version of Kubernetes 1 from which sidecars are native (KEP-753).
const nativeMinor = 29

// injection follows the settings of injection in their ConfigMap.
type injection struct {
	c        *Cluster
	informer cache.SharedIndexInformer
	// onChange is called after a change.
	onChange func()
	settings atomic.Pointer[inject.Config]

	mu     sync.Mutex     // guards what follows
	parsed *inject.Config // what the text says, without what the API server's version adds
	native bool
	text   *string // what parsed was read of; nil before the first
}

func newInjection(c *Cluster) (*injection, error) {
	i := &injection{c: c, native: true}
	i.take(i.fallback())
	name := inject.ConfigMapName + c.cfg.suffix()
	i.informer = coreinformers.NewFilteredConfigMapInformer(c.client, c.cfg.Namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = "metadata.name=" + name
	})
	_, err := i.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: i.read, UpdateFunc: func(_, now any) { i.read(now) }})
	if err != nil {
		return nil, fmt.Errorf("following settings of injection: %w", err)
	}
	return i, nil
}

// current is the settings in force.
func (i *injection) current() *inject.Config { return i.settings.Load() }

// fallback is what holds without a ConfigMap: what the command line says.
func (i *injection) fallback() *inject.Config {
	cfg := &i.c.cfg
	d := inject.DefaultConfig()
	text := fmt.Sprintf("revision: %q\ndefaultRevision: %v\nsystemNamespace: %q\ntrustDomain: %q\nclusterDomain: %q\ncontrolAddress: %q\n",
		cfg.Revision, cfg.Alone || cfg.TakeOver, cfg.Namespace, cfg.TrustDomain, cfg.ClusterDomain,
		kube.ControlPlane+cfg.suffix()+"."+cfg.Namespace+".svc:15012")
	if parsed, err := inject.ParseConfig([]byte(text)); err == nil {
		return parsed
	}
	return d
}

// run follows the ConfigMap until ctx ends.
func (i *injection) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { i.informer.RunWithContext(ctx); return nil })
	g.Go(func() error { return i.askVersion(ctx) })
	return g.Wait()
}

// askVersion learns once whether the API server knows native sidecars.
func (i *injection) askVersion(ctx context.Context) error {
	for {
		v, err := i.c.client.Discovery().ServerVersion()
		if err == nil {
			minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
			i.mu.Lock()
			defer i.mu.Unlock()
			i.native = err != nil || v.Major != "1" || minor >= nativeMinor
			i.take(i.parsed)
			return nil
		}
		if !pause(ctx, time.Second) {
			return nil
		}
	}
}

// read takes new settings; what can't be read leaves those before in force.
func (i *injection) read(o any) {
	c, ok := o.(*corev1.ConfigMap)
	if !ok {
		return
	}
	text := c.Data[inject.ConfigKey]
	if !i.replace(c.Namespace+"/"+c.Name, text) {
		return
	}
	i.c.cfg.Log.Info("settings of injection are in force", "configmap", c.Namespace+"/"+c.Name)
	if i.onChange != nil {
		i.onChange()
	}
}

// replace reports whether other settings are in force now.
func (i *injection) replace(name, text string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.text != nil && *i.text == text {
		return false
	}
	parsed, err := inject.ParseConfig([]byte(text))
	if err != nil {
		i.c.cfg.Log.Error("settings of injection are refused, those before stay in force", "configmap", name, "key", inject.ConfigKey, "error", err)
		return false
	}
	i.text = &text
	i.take(parsed)
	return true
}

// take puts settings in force. The lock is held, or nobody else knows i yet.
func (i *injection) take(parsed *inject.Config) {
	i.parsed = parsed
	i.settings.Store(parsed.WithNative(i.native))
}
