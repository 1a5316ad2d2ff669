package tokens

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of pods that the informers don't know.
const (
	// podPoll is how often one is looked for while it is waited for.
	podPoll = 25 * time.Millisecond
	// podsPerSecond bounds how often the API server is asked after that.
	podsPerSecond = 5
	// maxWaiting bounds the pods that are waited for at once.
	maxWaiting = 1024
	// goneTime is how long a pod that is gone is remembered as such; neither its uid nor its life comes back.
	goneTime = time.Minute
	// maxGone bounds how many are.
	maxGone = 8192
)

// pods finds out whether pods live.
type pods struct {
	cfg     Config
	asking  *rate.Limiter
	waiting chan struct{} // a place for each pod that is waited for
	flight  singleflight.Group
	stats   *stats

	mu   sync.Mutex           // guards gone
	gone map[string]time.Time // by podKey, until when it is remembered
}

func newPods(cfg Config, s *stats) *pods {
	return &pods{cfg: cfg, asking: rate.NewLimiter(podsPerSecond, podsPerSecond), waiting: make(chan struct{}, maxWaiting), stats: s,
		gone: map[string]time.Time{}}
}

// errGone is wrapped by what the API server said once and for all: that this pod will never live again.
var errGone = errors.New("the pod that the token is bound to is gone")

// alive checks that the pod of a token lives and has the token's service account. A pod that the informers do not know, or
// know another of that name, may be milliseconds old: it is waited for, and then the API server is asked, by one for all that
// bring a token of this pod.
func (p *pods) alive(ctx context.Context, b bearer) error {
	if done, err := p.known(b); done {
		return err
	}
	out := p.flight.DoChan(b.podKey(), func() (any, error) {
		// Not with the first one's ctx: who gives up must not decide for the others.
		return nil, p.find(context.WithoutCancel(ctx), b)
	})
	select {
	case <-ctx.Done():
		return refuse(reasonPodGone, "waiting for pod %q: %w", b.namespace+"/"+b.pod, ctx.Err())
	case got := <-out:
		return got.Err
	}
}

// find waits until the informers know the pod, no longer than PodWait, and then asks for it.
func (p *pods) find(ctx context.Context, b bearer) error {
	if p.isGone(b.podKey()) {
		return refuse(reasonPodGone, "pod %q with uid %q: %w", b.namespace+"/"+b.pod, b.podUID, errGone)
	}
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return refuse(reasonBusy, "%d pods are waited for", maxWaiting)
	}
	timeout := time.NewTimer(p.cfg.PodWait)
	defer timeout.Stop()
	poll := time.NewTicker(podPoll)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
			if done, err := p.known(b); done {
				return err
			}
		case <-timeout.C:
			err := p.ask(ctx, b)
			if errors.Is(err, errGone) {
				p.keepGone(b.podKey())
			}
			return err
		}
	}
}

// podKey names the pod as one token's claims do.
func (b bearer) podKey() string {
	return b.namespace + "/" + b.serviceAccount + "/" + b.pod + "/" + b.podUID
}

// known judges by what the informers know; done is false when that may change.
func (p *pods) known(b bearer) (done bool, err error) {
	uid, sa, ok := p.cfg.Pods(b.namespace, b.pod)
	if !ok || uid != b.podUID {
		return false, nil
	}
	return true, b.has(sa)
}

// has refuses a pod with another service account. None can change it: such a token is not the API server's doing.
func (b bearer) has(sa string) error {
	if sa != b.serviceAccount {
		return refuse(reasonPodAccount, "pod %q has service account %q, the token is of %q", b.namespace+"/"+b.pod, sa, b.serviceAccount)
	}
	return nil
}

func (p *pods) ask(ctx context.Context, b bearer) error {
	name := b.namespace + "/" + b.pod
	if !p.asking.Allow() {
		return refuse(reasonPodGone, "pod %q with uid %q is not known here", name, b.podUID)
	}
	p.stats.pods.Inc()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pod, err := p.cfg.Client.CoreV1().Pods(b.namespace).Get(ctx, b.pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return refuse(reasonPodGone, "there is no pod %q: %w", name, errGone)
	case err != nil:
		return refuse(reasonAPI, "asking for pod %q: %w", name, err)
	case string(pod.UID) != b.podUID:
		return refuse(reasonPodGone, "pod %q has uid %q now, the token is bound to %q: %w", name, pod.UID, b.podUID, errGone)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return refuse(reasonPodGone, "pod %q has ended (%s): %w", name, pod.Status.Phase, errGone)
	}
	// The API server defaults the name where a pod has none.
	return b.has(pod.Spec.ServiceAccountName)
}

func (p *pods) isGone(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.gone[key])
}

func (p *pods) keepGone(key string) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	makeRoom(p.gone, maxGone, now)
	p.gone[key] = now.Add(goneTime)
}

// makeRoom makes room for one more: when the map is full what ended goes, and if nothing did, any.
func makeRoom[K comparable](until map[K]time.Time, limit int, now time.Time) {
	if len(until) < limit {
		return
	}
	for k, end := range until {
		if !now.Before(end) {
			delete(until, k)
		}
	}
	for k := range until {
		if len(until) < limit {
			break
		}
		delete(until, k)
	}
}
