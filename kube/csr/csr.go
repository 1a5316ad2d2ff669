// Package csr signs CertificateSigningRequests with our signer's name, once somebody approved them. Only the leader runs it.
//
// A request is signed if its author is the service account that it names: spec.username is
// system:serviceaccount:NS:SA, its only subject alternative name is spiffe://TD/ns/NS/sa/SA, and it asks for no other usage
// than TLS. Anything else gets the condition Failed with the reason.
//
// It needs get, list and watch of CertificateSigningRequests, update of their status, and sign of signer
// signet.dev/workload.
package csr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/kube"
)

// callTimeout bounds one call of the API server.
const callTimeout = 10 * time.Second

// Bounds of the wait before a request that could not be handled is tried again; it doubles.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = time.Minute
)

// Config is what New needs. Client and CA are required.
type Config struct {
	Client kubernetes.Interface
	CA     *ca.CA
	Log    *slog.Logger
}

// Signer signs while it runs.
type Signer struct{ cfg Config }

// New checks the configuration.
func New(cfg Config) (*Signer, error) {
	if cfg.Client == nil || cfg.CA == nil {
		return nil, errors.New("building signer of CertificateSigningRequests: client and CA must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Signer{cfg}, nil
}

// Run signs until ctx ends, and returns nil. One that is signed already, denied or failed is left alone, so that running
// twice harms nothing.
func (s *Signer) Run(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry))
	factory := informers.NewSharedInformerFactoryWithOptions(s.cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.signerName", kube.SignerName).String()
	}))
	requests := factory.Certificates().V1().CertificateSigningRequests()
	add := func(o any) {
		if r, ok := o.(*certv1.CertificateSigningRequest); ok && waiting(r) {
			queue.Add(r.Name)
		}
	}
	if _, err := requests.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, o any) { add(o) }}); err != nil {
		return fmt.Errorf("watching CertificateSigningRequests: %w", err)
	}
	lister := requests.Lister()
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer queue.ShutDown()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	for {
		name, stopped := queue.Get()
		if stopped {
			return nil
		}
		if err := s.handle(ctx, lister, name); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("handling CertificateSigningRequest failed, trying again", "name", name, "error", err)
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

// waiting reports whether a request is approved and nothing became of it yet.
func waiting(r *certv1.CertificateSigningRequest) bool {
	approved := false
	for _, c := range r.Status.Conditions {
		if c.Status == corev1.ConditionFalse {
			continue // the API server takes none of these types with False; the zero value counts as True
		}
		switch c.Type {
		case certv1.CertificateDenied, certv1.CertificateFailed:
			return false
		case certv1.CertificateApproved:
			approved = true
		}
	}
	return approved && len(r.Status.Certificate) == 0 && r.Spec.SignerName == kube.SignerName
}

// handle signs one request, or says why not. Its errors are worth another try.
func (s *Signer) handle(ctx context.Context, lister listers.CertificateSigningRequestLister, name string) error {
	seen, err := lister.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !waiting(seen) {
		return nil
	}
	request := seen.DeepCopy()
	chain, err := s.sign(request)
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		s.cfg.CA.Refuse(ca.Caller{ID: refused.id, Proof: proof, From: name}, fmt.Errorf("%s: %s", refused.reason, refused.message))
		request.Status.Conditions = append(request.Status.Conditions, certv1.CertificateSigningRequestCondition{
			Type: certv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: refused.reason, Message: refused.message,
			LastUpdateTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	case err != nil:
		return fmt.Errorf("signing: %w", err)
	default:
		request.Status.Certificate = chain
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// A request that changed meanwhile is a conflict, and is judged anew.
	_, err = s.cfg.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, request, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("writing status: %w", err)
	}
	return nil
}
