package bundle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/kube"
)

// discoverAgain is how long after the API server said that it has no ClusterTrustBundles it is asked again: an upgrade of it
// may bring them. Nothing tells of that.
const discoverAgain = 10 * time.Minute

// versions of ClusterTrustBundle, preferred first (KEP-3257: v1alpha1 since 1.27, v1beta1 since 1.33).
func versions() []string { return []string{"v1", "v1beta1", "v1alpha1"} }

// clusterBundle is the ClusterTrustBundle.
type clusterBundle struct {
	client    dynamic.Interface
	discovery discovery.DiscoveryInterface
	log       *slog.Logger

	mu  sync.Mutex                  // guards gvr
	gvr schema.GroupVersionResource // zero while none is known
}

// find asks the API server which version it serves; the zero value if none.
func (c *clusterBundle) find() (schema.GroupVersionResource, error) {
	for _, v := range versions() {
		gvr := schema.GroupVersionResource{Group: "certificates.k8s.io", Version: v, Resource: "clustertrustbundles"}
		list, err := c.discovery.ServerResourcesForGroupVersion(gvr.GroupVersion().String())
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return schema.GroupVersionResource{}, fmt.Errorf("discovering ClusterTrustBundles: %w", err)
		}
		for _, r := range list.APIResources {
			if r.Name == gvr.Resource {
				return gvr, nil
			}
		}
	}
	return schema.GroupVersionResource{}, nil
}

// watch finds the kind and calls touched whenever ours may have changed, until ctx ends.
func (c *clusterBundle) watch(ctx context.Context, touched func()) error {
	retry := firstRetry
	for {
		gvr, err := c.find()
		wait := discoverAgain
		switch {
		case err != nil:
			c.log.Warn("publishing ClusterTrustBundle failed, trying again", "error", err)
			wait, retry = retry, min(2*retry, lastRetry)
		case gvr.Empty():
			c.log.Info("this API server has no ClusterTrustBundles, none is published")
		default:
			c.mu.Lock()
			c.gvr = gvr
			c.mu.Unlock()
			return c.inform(ctx, gvr, touched)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (c *clusterBundle) inform(ctx context.Context, gvr schema.GroupVersionResource, touched func()) error {
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.client, 0, metav1.NamespaceAll, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, kube.ClusterTrustBundle).String()
	})
	handle := func(any) { touched() }
	_, err := factory.ForResource(gvr).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: handle, UpdateFunc: func(any, any) { touched() }, DeleteFunc: handle,
	})
	if err != nil {
		return fmt.Errorf("watching ClusterTrustBundle: %w", err)
	}
	factory.Start(ctx.Done())
	touched()
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// publish brings the object in line. Its name carries the signer's, so it is nobody else's.
func (c *clusterBundle) publish(ctx context.Context, text string) error {
	c.mu.Lock()
	gvr := c.gvr
	c.mu.Unlock()
	if gvr.Empty() {
		return nil
	}
	client := c.client.Resource(gvr)
	have, err := client.Get(ctx, kube.ClusterTrustBundle, metav1.GetOptions{})
	spec := map[string]any{"signerName": kube.SignerName, "trustBundle": text}
	if apierrors.IsNotFound(err) {
		next := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		next.SetGroupVersionKind(gvr.GroupVersion().WithKind("ClusterTrustBundle"))
		next.SetName(kube.ClusterTrustBundle)
		next.SetLabels(map[string]string{kube.LabelManagedBy: kube.ManagedBy})
		_, err = client.Create(ctx, next, metav1.CreateOptions{})
	} else if err == nil {
		if now, _, _ := unstructured.NestedString(have.Object, "spec", "trustBundle"); now == text {
			return nil
		}
		next := have.DeepCopy()
		next.Object["spec"] = spec
		_, err = client.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("writing ClusterTrustBundle %q: %w", kube.ClusterTrustBundle, err)
	}
	return nil
}
