// Package keystore keeps a CA's files in Secrets: the root slots, written by compare and swap on the resourceVersion, and
// an operator's own CA, which is only read. Both are an authority.Source.
//
// It needs get, list, watch, create and update of Secrets by name, and create of Events.
package keystore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/kube"
)

// Type is that of the Secrets that Swap creates.
const Type corev1.SecretType = "signet.dev/ca"

// callTimeout bounds one call of the API server.
const callTimeout = 10 * time.Second

// Config names a Secret. Client, Namespace and Name are required.
type Config struct {
	Client          kubernetes.Interface
	Namespace, Name string
	Log             *slog.Logger
}

// Secret is one Secret as an authority.Store and an authority.Recorder, whose Events are about that Secret. Safe for
// concurrent use.
type Secret struct{ cfg Config }

// New builds a Secret; nothing is read before Load.
func New(cfg Config) (*Secret, error) {
	if cfg.Client == nil || cfg.Namespace == "" || cfg.Name == "" {
		return nil, errors.New("building key store: client, namespace and name must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Secret{cfg}, nil
}

// Load implements authority.Source. It asks the API server, whose answer is that of a quorum of etcd.
func (s *Secret) Load(ctx context.Context) (authority.Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := s.cfg.Client.CoreV1().Secrets(s.cfg.Namespace).Get(ctx, s.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return authority.Stored{}, nil
	}
	if err != nil {
		return authority.Stored{}, fmt.Errorf("reading Secret %q: %w", s.name(), err)
	}
	// The uid belongs to it: a Secret that was deleted and made again is another one.
	return authority.Stored{Version: string(got.UID) + "/" + got.ResourceVersion, Files: got.Data}, nil
}

// Swap implements authority.Store.
func (s *Secret) Swap(ctx context.Context, old string, files map[string][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secrets := s.cfg.Client.CoreV1().Secrets(s.cfg.Namespace)
	next := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.cfg.Namespace, Name: s.cfg.Name, Labels: map[string]string{kube.LabelManagedBy: kube.ManagedBy}},
		Type:       Type, Data: files,
	}
	if old == "" {
		_, err := secrets.Create(ctx, next, metav1.CreateOptions{})
		return s.outcome("creating", err, apierrors.IsAlreadyExists(err))
	}
	have, err := secrets.Get(ctx, s.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return s.outcome("reading", err, apierrors.IsNotFound(err))
	}
	if string(have.UID)+"/"+have.ResourceVersion != old {
		return s.outcome("updating", errors.New("it has another version"), true)
	}
	next = have.DeepCopy() // what an operator added (labels, annotations) stays
	next.Data = files
	_, err = secrets.Update(ctx, next, metav1.UpdateOptions{})
	return s.outcome("updating", err, apierrors.IsConflict(err) || apierrors.IsNotFound(err))
}

func (s *Secret) outcome(step string, err error, conflict bool) error {
	switch {
	case err == nil:
		return nil
	case conflict:
		return fmt.Errorf("%s Secret %q: %w", step, s.name(), authority.ErrConflict)
	}
	return fmt.Errorf("%s Secret %q: %w", step, s.name(), err)
}

// Watch implements authority.Source by an informer of this one Secret, which lists again whenever its watch broke.
func (s *Secret) Watch(ctx context.Context, changed chan<- struct{}) error {
	factory := informers.NewSharedInformerFactoryWithOptions(s.cfg.Client, 0, informers.WithNamespace(s.cfg.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.cfg.Name).String()
		}))
	informer := factory.Core().V1().Secrets().Informer()
	// Nothing is read from the informer: it need not keep keys in memory.
	if err := informer.SetTransform(func(o any) (any, error) {
		if secret, ok := o.(*corev1.Secret); ok {
			secret.Data, secret.ManagedFields = nil, nil
		}
		return o, nil
	}); err != nil {
		return fmt.Errorf("watching Secret %q: %w", s.name(), err)
	}
	tell := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell})
	if err != nil {
		return fmt.Errorf("watching Secret %q: %w", s.name(), err)
	}
	factory.StartWithContext(ctx)
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// Record implements authority.Recorder with an Event about the Secret. One that can't be written is logged.
func (s *Secret) Record(ctx context.Context, warning bool, reason, message string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	now := metav1.Now()
	var uid types.UID
	if got, err := s.cfg.Client.CoreV1().Secrets(s.cfg.Namespace).Get(ctx, s.cfg.Name, metav1.GetOptions{}); err == nil {
		uid = got.UID
	}
	_, err := s.cfg.Client.CoreV1().Events(s.cfg.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: s.cfg.Namespace, GenerateName: s.cfg.Name + "."},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: s.cfg.Namespace, Name: s.cfg.Name, UID: uid},
		Reason:         reason, Message: message[:min(len(message), maxMessage)], Type: kind, Count: 1,
		FirstTimestamp: now, LastTimestamp: now, Source: corev1.EventSource{Component: kube.ControlPlane},
	}, metav1.CreateOptions{})
	if err != nil {
		s.cfg.Log.Warn("writing Event failed", "secret", s.name(), "reason", reason, "error", err)
	}
}

// maxMessage is the longest message of an Event that the API server takes.
const maxMessage = 1024

func (s *Secret) name() string { return s.cfg.Namespace + "/" + s.cfg.Name }
