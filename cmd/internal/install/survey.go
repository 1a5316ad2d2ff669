package install

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/kube"
)

// lookTimeout bounds the look at a cluster.
const lookTimeout = 15 * time.Second

// bareInjector is the webhook that takes namespaces with istio-injection=enabled.
const bareInjector = "namespace.injector.signet.dev"

const (
	labelPartOf = "app.kubernetes.io/part-of"
	partOf      = "signet"
)

// Survey is what lives in a cluster. The zero value is an empty one.
type Survey struct {
	server, version string   // version is the API server's
	istio           []string // what of a live Istio was found
	revisions       []string // other revisions of Signet
	foreign         []string // names of CustomResourceDefinitions that somebody else installed
	namespace       bool     // the namespace is there, and is not ours
	bare            bool     // this revision is installed and has the labels that name none
	alone           bool     // this revision is installed and was told that it is alone
}

// Others names who else lives there; "" if nobody does.
func (s *Survey) Others() string {
	var all []string
	if len(s.istio) > 0 {
		all = append(all, "Istio ("+strings.Join(s.istio, ", ")+")")
	}
	if len(s.revisions) > 0 {
		all = append(all, "Signet of revision "+strings.Join(s.revisions, ", "))
	}
	return strings.Join(all, " and ")
}

// Look surveys a cluster, for the installation of a revision in a namespace. It only reads.
func Look(ctx context.Context, cfg *rest.Config, namespace, revision string) (*Survey, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = lookTimeout
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	definitions, err := apiextensions.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s := &Survey{server: cfg.Host}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("asking the API server at %s: %w", cfg.Host, err)
	}
	s.version = version.GitVersion
	if err := s.controlPlanes(ctx, client, revision); err != nil {
		return nil, fmt.Errorf("looking for a live Istio: %w", err)
	}
	crds, err := definitions.ApiextensionsV1().CustomResourceDefinitions().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("looking for CustomResourceDefinitions: %w", err)
	}
	for i := range crds.Items {
		if crds.Items[i].Labels[kube.LabelManagedBy] != kube.ManagedBy {
			s.foreign = append(s.foreign, crds.Items[i].Name)
		}
	}
	ns, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return nil, fmt.Errorf("looking for namespace %q: %w", namespace, err)
	case ns.DeletionTimestamp != nil:
		return nil, fmt.Errorf("namespace %q is being deleted, and nothing can be put into it until it is gone; try again then", namespace)
	default:
		s.namespace = ns.Labels[kube.LabelManagedBy] != kube.ManagedBy
	}
	return s, nil
}

// controlPlanes finds those of Istio, by webhooks that call an istiod or are Istio's by name, and by Deployments of istiod; and
// those of other revisions of ours. CustomResourceDefinitions alone are no Istio.
func (s *Survey) controlPlanes(ctx context.Context, client kubernetes.Interface, revision string) error {
	mutating, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range mutating.Items {
		m := &mutating.Items[i]
		if m.Labels[labelPartOf] == partOf {
			if rev := m.Labels[kube.LabelRevision]; rev != revision {
				s.revisions = append(s.revisions, rev)
			} else {
				s.bare = slices.ContainsFunc(m.Webhooks, func(w admission.MutatingWebhook) bool { return w.Name == bareInjector })
			}
			continue
		}
		if istioInjector(m) {
			s.istio = append(s.istio, "webhook "+m.Name)
		}
	}
	validating, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range validating.Items {
		v := &validating.Items[i]
		if v.Labels[labelPartOf] != partOf && (strings.HasPrefix(v.Name, "istio-validator") || v.Labels["app"] == "istiod") {
			s.istio = append(s.istio, "webhook "+v.Name)
		}
	}
	own, err := client.AppsV1().Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: labelPartOf + "=" + partOf + "," + kube.LabelRevision + "=" + revision})
	if err != nil {
		return err
	}
	for i := range own.Items {
		s.alone = s.alone || slices.ContainsFunc(own.Items[i].Spec.Template.Spec.Containers, func(c corev1.Container) bool { return slices.Contains(c.Args, "--alone") })
	}
	deployments, err := client.AppsV1().Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return err
	}
	for i := range deployments.Items {
		s.istio = append(s.istio, "deployment "+deployments.Items[i].Namespace+"/"+deployments.Items[i].Name)
	}
	return nil
}

func istioInjector(m *admission.MutatingWebhookConfiguration) bool {
	if strings.HasPrefix(m.Name, "istio-sidecar-injector") || strings.HasPrefix(m.Name, "istio-revision-tag") || m.Labels["app"] == "sidecar-injector" {
		return true
	}
	return slices.ContainsFunc(m.Webhooks, func(w admission.MutatingWebhook) bool {
		return strings.HasSuffix(w.Name, ".istio.io") || w.ClientConfig.Service != nil && strings.HasPrefix(w.ClientConfig.Service.Name, "istiod")
	})
}

// Version is the API server's; "" of a survey that nobody made.
func (s *Survey) Version() string {
	if s == nil {
		return ""
	}
	return s.version
}
