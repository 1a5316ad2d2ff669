package tokens

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/signet-mesh/signet/identity/jwt"
)

// Bounds of TokenReviews.
const (
	// maxReviewed bounds the cache of tokens that the API server took.
	maxReviewed = 8192
	// reviewTimeout bounds the wait for a turn and the TokenReview itself.
	reviewTimeout = 15 * time.Second
	// maxReviewsPerPod bounds the tokens of one pod that wait for a turn: the one in its volume, and the one before.
	maxReviewsPerPod = 2
)

// reviews asks the API server of tokens whose signature, issuer, audience and pod were found good, at most once for a token
// until that expires. Tokens that it refused are not kept. Nobody waits for a turn but who holds a genuine token, and of one
// service account no more than half of those who can get one in time: others always find a place.
type reviews struct {
	client    kubernetes.Interface
	audiences []string
	limit     *rate.Limiter
	most      [2]int // of one service account's tokens, and of one pod's, that wait at once
	flight    singleflight.Group
	stats     *stats

	mu      sync.Mutex                      // guards what follows
	known   map[[sha256.Size]byte]time.Time // when tokens that were taken expire
	waiting map[string]int                  // how many do, by what waitsAs gives
}

func newReviews(client kubernetes.Interface, audiences []string, perSecond int, s *stats) *reviews {
	return &reviews{
		client: client, audiences: audiences, limit: rate.NewLimiter(rate.Limit(perSecond), perSecond), stats: s,
		most:  [2]int{perSecond * int(reviewTimeout/time.Second) / 2, maxReviewsPerPod},
		known: map[[sha256.Size]byte]time.Time{}, waiting: map[string]int{},
	}
}

// review asks whether the API server takes the token of b.
func (r *reviews) review(ctx context.Context, token string, b bearer, now time.Time) error {
	hash := sha256.Sum256([]byte(token))
	r.mu.Lock()
	expires, ok := r.known[hash]
	r.mu.Unlock()
	if ok && now.Before(expires) {
		return nil
	}
	// Whoever came first asks with its own deadline; the others share the answer, or its failure, and come again.
	out := r.flight.DoChan(string(hash[:]), func() (any, error) {
		if err := r.ask(ctx, token, b); err != nil {
			return nil, err
		}
		r.keep(hash, b.expires, now)
		return nil, nil
	})
	select {
	case <-ctx.Done():
		return refuse(reasonAPI, "waiting for TokenReview: %w", ctx.Err())
	case got := <-out:
		return got.Err
	}
}

// keep remembers a token until it expires. When the cache is full, expired ones go, and if there are none, any.
func (r *reviews) keep(hash [sha256.Size]byte, expires, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	makeRoom(r.known, maxReviewed, now)
	r.known[hash] = expires
}

// enter takes a place among those who wait; false if too many of the service account or of the pod do.
func (r *reviews) enter(b bearer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, who := range b.waitsAs() {
		if r.waiting[who] >= r.most[i] {
			return false
		}
	}
	for _, who := range b.waitsAs() {
		r.waiting[who]++
	}
	return true
}

func (r *reviews) leave(b bearer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, who := range b.waitsAs() {
		if r.waiting[who]--; r.waiting[who] == 0 {
			delete(r.waiting, who)
		}
	}
}

// waitsAs is whose places a token takes: its service account's, and its pod's where it is bound to one.
func (b bearer) waitsAs() []string {
	account := b.namespace + "/" + b.serviceAccount
	if b.pod == "" {
		return []string{account}
	}
	return []string{account, b.podKey()}
}

func (r *reviews) ask(ctx context.Context, token string, b bearer) error {
	if !r.enter(b) {
		return refuse(reasonBusy, "%d tokens of service account %q wait for a TokenReview, or %d of pod %q", r.most[0], b.namespace+"/"+b.serviceAccount, r.most[1], b.pod)
	}
	defer r.leave(b)
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	if err := r.limit.Wait(ctx); err != nil {
		return refuse(reasonBusy, "waiting for a TokenReview: %w", err)
	}
	r.stats.reviews.Inc()
	got, err := r.client.AuthenticationV1().TokenReviews().Create(ctx,
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: r.audiences}}, metav1.CreateOptions{})
	if err != nil {
		return refuse(reasonAPI, "creating TokenReview: %w", err)
	}
	status := got.Status
	switch {
	case !status.Authenticated:
		return refuse(reasonReview, "%.500s", strings.ReplaceAll(status.Error, token, "…"))
	case !slices.ContainsFunc(status.Audiences, func(a string) bool { return slices.Contains(r.audiences, a) }):
		return &refusal{jwt.WrongAudience, nil}
	case status.User.Username != b.username():
		return refuse(reasonSubject, "the API server says %.200q, the token %q", status.User.Username, b.username())
	}
	return nil
}
