package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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

// maxReviewed bounds the cache of tokens that the API server took.
const maxReviewed = 8192

// reviewTimeout bounds the wait for a turn and the TokenReview itself.
const reviewTimeout = 15 * time.Second

// Extra keys of a TokenReview (k8s.io/apiserver/pkg/authentication/serviceaccount).
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// reviews asks the API server, at most once for a token until that expires. Tokens that it refused are not kept: each such
// question costs one of the few a second, so that refused callers can slow down others, but never flood the API server.
type reviews struct {
	client    kubernetes.Interface
	audiences []string
	limit     *rate.Limiter
	flight    singleflight.Group
	stats     *stats

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]bearer
}

func newReviews(client kubernetes.Interface, audiences []string, perSecond int, s *stats) *reviews {
	return &reviews{
		client: client, audiences: audiences, limit: rate.NewLimiter(rate.Limit(perSecond), perSecond), stats: s,
		known: map[[sha256.Size]byte]bearer{},
	}
}

func (r *reviews) review(ctx context.Context, token string, now time.Time) (bearer, error) {
	if len(token) > jwt.MaxToken {
		return bearer{}, &refusal{jwt.TooLong, nil}
	}
	hash := sha256.Sum256([]byte(token))
	r.mu.Lock()
	b, ok := r.known[hash]
	r.mu.Unlock()
	if ok && now.Before(b.expires) {
		return b, nil
	}
	// What costs nothing to see is not asked: that it has no end, or that this was past.
	end := expiry(token)
	switch {
	case end.IsZero():
		return bearer{}, refuse(reasonNoExpiry, "the token is no JWT with exp: only projected tokens are taken")
	case !now.Before(end):
		return bearer{}, &refusal{jwt.Expired, nil}
	}
	// Whoever came first asks with its own deadline; the others share the answer, or its failure, and come again.
	out := r.flight.DoChan(string(hash[:]), func() (any, error) {
		b, err := r.ask(ctx, token)
		if err != nil {
			return nil, err
		}
		b.expires = end
		r.keep(hash, b, now)
		return b, nil
	})
	select {
	case <-ctx.Done():
		return bearer{}, refuse(reasonAPI, "waiting for TokenReview: %w", ctx.Err())
	case got := <-out:
		if got.Err != nil {
			return bearer{}, got.Err
		}
		return got.Val.(bearer), nil
	}
}

// keep remembers a token until it expires. When the cache is full, expired ones go, and if there are none, any.
func (r *reviews) keep(hash [sha256.Size]byte, b bearer, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxReviewed {
		for h, old := range r.known {
			if !now.Before(old.expires) {
				delete(r.known, h)
			}
		}
		for h := range r.known {
			if len(r.known) < maxReviewed {
				break
			}
			delete(r.known, h)
		}
	}
	r.known[hash] = b
}

func (r *reviews) ask(ctx context.Context, token string) (bearer, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	if err := r.limit.Wait(ctx); err != nil {
		return bearer{}, refuse(reasonBusy, "waiting for a TokenReview: %w", err)
	}
	r.stats.reviews.Inc()
	got, err := r.client.AuthenticationV1().TokenReviews().Create(ctx,
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: r.audiences}}, metav1.CreateOptions{})
	if err != nil {
		return bearer{}, refuse(reasonAPI, "creating TokenReview: %w", err)
	}
	status := got.Status
	switch {
	case !status.Authenticated:
		return bearer{}, refuse(reasonReview, "%.500s", strings.ReplaceAll(status.Error, token, "…"))
	case !slices.ContainsFunc(status.Audiences, func(a string) bool { return slices.Contains(r.audiences, a) }):
		return bearer{}, &refusal{jwt.WrongAudience, nil}
	}
	ns, sa, ok := serviceAccount(status.User.Username)
	if !ok {
		return bearer{}, refuse(reasonSubject, "%.200q is no service account", status.User.Username)
	}
	return bearer{namespace: ns, serviceAccount: sa, pod: first(status.User.Extra[extraPodName]), podUID: first(status.User.Extra[extraPodUID])}, nil
}

func first(v authv1.ExtraValue) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

// expiry reads exp without verifying anything: it is believed only of a token that the API server took.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0)
}
