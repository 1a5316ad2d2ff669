package bundle

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/signet-mesh/signet/kube"
)

func everything() labels.Selector { return labels.Everything() }

// publish brings one ConfigMap in line. Our own name is ours, whoever made the object; Istio's is ours only where we made it.
func (r *running) publish(ctx context.Context, j job, text string) error {
	ns, err := r.namespaces.Get(j.namespace)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || !r.cfg.Selected(ns) {
		return nil
	}
	have, err := r.maps[j.name].ConfigMaps(j.namespace).Get(j.name)
	if apierrors.IsNotFound(err) {
		return r.create(ctx, j, text)
	}
	if err != nil {
		return err
	}
	own := have.Labels[kube.LabelManagedBy] == kube.ManagedBy
	switch {
	case j.name == kube.IstioBundleConfigMap && !own:
		return nil
	case own && len(have.Data) == 1 && have.Data[kube.BundleKey] == text && len(have.BinaryData) == 0:
		return nil
	case have.Immutable != nil && *have.Immutable:
		return fmt.Errorf("ConfigMap %q is immutable: delete it", j.namespace+"/"+j.name)
	}
	next := have.DeepCopy()
	next.Data, next.BinaryData = map[string]string{kube.BundleKey: text}, nil
	next.Labels = maps.Clone(have.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	next.Labels[kube.LabelManagedBy] = kube.ManagedBy
	_, err = r.cfg.Client.CoreV1().ConfigMaps(j.namespace).Update(ctx, next, metav1.UpdateOptions{})
	return err
}

func (r *running) create(ctx context.Context, j job, text string) error {
	_, err := r.cfg.Client.CoreV1().ConfigMaps(j.namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: j.namespace, Name: j.name, Labels: map[string]string{kube.LabelManagedBy: kube.ManagedBy}},
		Data:       map[string]string{kube.BundleKey: text},
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // the namespace is gone, or going
	}
	return err
}
