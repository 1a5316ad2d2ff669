package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	registration "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/kube/inject"
)

// KeeperConfig is what a Keeper needs.
type KeeperConfig struct {
	// Client may get, list, watch and patch the configurations; a Role can name them (resourceNames).
	Client kubernetes.Interface
	// Source's bundle of TrustDomain is what the API server shall verify the webhooks with.
	Source      certs.Source
	TrustDomain string
	// Mutating and Validating are the names of the webhook configurations that are ours.
	Mutating, Validating []string
	Log                  *slog.Logger
}

// Keeper keeps caBundle of webhook configurations. Any replica may run one: all write the same.
type Keeper struct{ cfg KeeperConfig }

// NewKeeper builds a Keeper; it works once Run is called.
func NewKeeper(cfg KeeperConfig) *Keeper { return &Keeper{cfg: cfg} }

// pause is the least time between two writes of one configuration, and the wait after a failure. Replicas that don't have the same
// roots yet would write against each other; this bounds it.
const pause = time.Second

// Run writes the roots into every webhook of the configurations, whenever the roots change or somebody writes others, until ctx
// ends. A configuration that does not exist is waited for.
func (k *Keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	client := k.cfg.Client.AdmissionregistrationV1()
	for _, name := range k.cfg.Mutating {
		group.Go(func() error {
			return (&kept{k, name, &registration.MutatingWebhookConfiguration{}, client.RESTClient(), "mutatingwebhookconfigurations",
				func(ctx context.Context, patch []byte) error {
					_, err := client.MutatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{})
					return err
				}}).run(ctx)
		})
	}
	for _, name := range k.cfg.Validating {
		group.Go(func() error {
			return (&kept{k, name, &registration.ValidatingWebhookConfiguration{}, client.RESTClient(), "validatingwebhookconfigurations",
				func(ctx context.Context, patch []byte) error {
					_, err := client.ValidatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{})
					return err
				}}).run(ctx)
		})
	}
	<-ctx.Done()
	return group.Wait()
}

// kept is one configuration, followed by one goroutine.
type kept struct {
	keeper   *Keeper
	name     string
	empty    runtime.Object
	get      cache.Getter
	resource string
	patch    func(context.Context, []byte) error
}

func (o *kept) run(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	nudge := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	list := cache.NewListWatchFromClient(o.get, o.resource, metav1.NamespaceAll, fields.OneTermEqualSelector("metadata.name", o.name))
	informer := cache.NewSharedInformer(list, o.empty, 0)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { nudge() }, UpdateFunc: func(_, _ any) { nudge() },
	}); err != nil {
		return fmt.Errorf("watching %s %q: %w", o.resource, o.name, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { informer.Run(ctx.Done()); return nil })
	group.Go(func() error { return o.follow(ctx, informer.GetStore(), wake) })
	return group.Wait()
}

// follow writes when the roots or the configuration changed.
func (o *kept) follow(ctx context.Context, store cache.Store, wake <-chan struct{}) error {
	for {
		snapshot, changed := o.keeper.cfg.Source.Watch()
		var again <-chan time.Time
		if wrote, err := o.write(ctx, store, snapshot.Bundles[o.keeper.cfg.TrustDomain]); err != nil && ctx.Err() == nil {
			o.keeper.cfg.Log.Warn("writing caBundle failed", "object", o.resource+"/"+o.name, "error", err)
			again = time.After(pause)
		} else if wrote {
			o.keeper.cfg.Log.Info("caBundle is written", "object", o.resource+"/"+o.name)
			if !sleep(ctx, pause) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-wake:
		case <-again:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// write patches what differs. Each step tests the webhook's name first: an entry that moved meanwhile fails the patch, and the
// watch brings the new state.
func (o *kept) write(ctx context.Context, store cache.Store, bundle *certs.Bundle) (bool, error) {
	item, there, err := store.GetByKey(o.name)
	if err != nil || !there || bundle == nil {
		return false, err
	}
	roots := bundle.PEM()
	var patch []inject.Operation
	for i, w := range webhooksOf(item) {
		if !bytes.Equal(w.client.CABundle, roots) {
			at := fmt.Sprintf("/webhooks/%d", i)
			patch = append(patch, inject.Operation{Op: "test", Path: at + "/name", Value: w.name},
				inject.Operation{Op: "add", Path: at + "/clientConfig/caBundle", Value: roots})
		}
	}
	if patch == nil {
		return false, nil
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return true, o.patch(ctx, text)
}

// hook is what both kinds of webhooks have.
type hook struct {
	name   string
	client registration.WebhookClientConfig
}

func webhooksOf(configuration any) []hook {
	var out []hook
	switch c := configuration.(type) {
	case *registration.MutatingWebhookConfiguration:
		for i := range c.Webhooks {
			out = append(out, hook{c.Webhooks[i].Name, c.Webhooks[i].ClientConfig})
		}
	case *registration.ValidatingWebhookConfiguration:
		for i := range c.Webhooks {
			out = append(out, hook{c.Webhooks[i].Name, c.Webhooks[i].ClientConfig})
		}
	}
	return out
}
