// Package tokens judges service-account tokens: offline, with the API server's public keys and what the informers know of
// pods, and then by TokenReview where that is asked for. It is an attest.Bearers.
//
// It needs the non-resource URLs /openid/v1/jwks and /.well-known/openid-configuration (the ClusterRole
// system:service-account-issuer-discovery), get of Pods, and create of TokenReviews where Config.Review is set.
package tokens

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/kube"
)

// Bounds.
const (
	// DefaultReviewsPerSecond bounds TokenReviews where Config does not.
	DefaultReviewsPerSecond = 5
	// DefaultPodWait is how long a pod that is not known is waited for.
	DefaultPodWait = 2 * time.Second
	// callTimeout bounds one call of the API server.
	callTimeout = 5 * time.Second
)

// Config is what New needs. Client and Pods are required.
type Config struct {
	Client kubernetes.Interface
	// Pods is what is known of a pod; it must not block. It tells whether the pod that a token is bound to lives.
	Pods func(namespace, name string) (uid, serviceAccount string, ok bool)
	// Audiences of which a token must name one; none means kube.Audience and kube.IstioAudience.
	Audiences []string
	// Review asks the API server for each new token by TokenReview, once it was found good offline.
	Review bool
	// Unbound takes tokens that are bound to no pod.
	Unbound bool
	// ReviewsPerSecond bounds TokenReviews; zero means DefaultReviewsPerSecond.
	ReviewsPerSecond int
	// PodWait is how long a pod that is not known yet is waited for, before the API server is asked; zero means
	// DefaultPodWait.
	PodWait time.Duration
	Log     *slog.Logger
}

// Judge judges tokens. It is a prometheus.Collector as well. Safe for concurrent use.
type Judge struct {
	cfg     Config
	keys    *keys
	pods    *pods
	reviews *reviews
	stats   *stats
}

// New checks the configuration.
func New(cfg Config) (*Judge, error) {
	if cfg.Client == nil || cfg.Pods == nil {
		return nil, errors.New("building token judge: client and pods must be given")
	}
	if cfg.ReviewsPerSecond < 0 || cfg.PodWait < 0 {
		return nil, errors.New("building token judge: limits are below zero")
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{kube.Audience, kube.IstioAudience}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.ReviewsPerSecond = cmp.Or(cfg.ReviewsPerSecond, DefaultReviewsPerSecond)
	cfg.PodWait = cmp.Or(cfg.PodWait, DefaultPodWait)
	j := &Judge{cfg: cfg, stats: newStats()}
	j.pods = newPods(cfg, j.stats)
	j.keys = newKeys(cfg.Client, cfg.Log)
	j.reviews = newReviews(cfg.Client, cfg.Audiences, cfg.ReviewsPerSecond, j.stats)
	return j, nil
}

// Run keeps the API server's keys fresh until ctx ends, and returns nil.
func (j *Judge) Run(ctx context.Context) error {
	return j.keys.run(ctx)
}

// Reasons of refusals, for logs and metrics, beside those of identity/jwt.
const (
	reasonIssuer     = "no_issuer"   // the API server has not told its issuer yet
	reasonNoExpiry   = "no_expiry"   // a token for ever, as legacy Secrets hold
	reasonSubject    = "subject"     // not a service account's, or the claims disagree
	reasonUnbound    = "unbound"     // bound to no pod
	reasonPodGone    = "pod_gone"    // there is no such pod, another of that name, or it has ended
	reasonPodAccount = "pod_account" // the pod has another service account
	reasonBusy       = "busy"        // too many tokens wait
	reasonReview     = "review"      // the API server does not take it
	reasonAPI        = "api_server"  // it could not be asked
)

// refusal is why a token was refused. It quotes nothing of the token.
type refusal struct {
	reason string
	cause  error // may be nil
}

func (r *refusal) Error() string {
	if r.cause == nil {
		return "judging service-account token: " + r.reason
	}
	return "judging service-account token: " + r.reason + ": " + r.cause.Error()
}

func (r *refusal) Unwrap() error { return r.cause }

func refuse(reason, format string, args ...any) error {
	return &refusal{reason, fmt.Errorf(format, args...)}
}

// bearer is whom a token that is good belongs to.
type bearer struct {
	namespace, serviceAccount string
	pod, podUID               string // "" for a token that is bound to none
	expires                   time.Time
}

// Identify implements attest.Bearers.
func (j *Judge) Identify(ctx context.Context, token string, now time.Time) (namespace, serviceAccount, pod string, err error) {
	b, err := j.identify(ctx, token, now)
	if err != nil {
		reason := reasonAPI
		var r *refusal
		if errors.As(err, &r) {
			reason = r.reason
		}
		j.stats.refused.WithLabelValues(reason).Inc()
		return "", "", "", err
	}
	j.stats.accepted.Inc()
	return b.namespace, b.serviceAccount, b.pod, nil
}

// identify asks the API server last: what costs it something is done for genuine tokens of living pods only.
func (j *Judge) identify(ctx context.Context, token string, now time.Time) (bearer, error) {
	b, err := j.verify(ctx, token, now)
	if err != nil {
		return bearer{}, err
	}
	switch {
	case b.pod != "":
		err = j.pods.alive(ctx, b)
	case !j.cfg.Unbound:
		err = refuse(reasonUnbound, "the token of %q is bound to no pod", b.namespace+"/"+b.serviceAccount)
	}
	if err == nil && j.cfg.Review {
		err = j.reviews.review(ctx, token, b, now)
	}
	if err != nil {
		return bearer{}, err
	}
	return b, nil
}

// verify judges a token offline.
func (j *Judge) verify(ctx context.Context, token string, now time.Time) (bearer, error) {
	issuers := j.keys.issuers(ctx)
	if len(issuers) == 0 {
		return bearer{}, refuse(reasonIssuer, "the API server has not told its issuer yet")
	}
	rules := make([]jwt.Rule, len(issuers))
	for i, issuer := range issuers {
		rules[i] = jwt.Rule{Issuer: issuer, Audiences: j.cfg.Audiences, Keys: j.keys}
	}
	t, bad := jwt.Verify(ctx, token, rules, now)
	if bad != nil {
		return bearer{}, &refusal{bad.Reason, bad.Cause}
	}
	if t.Expires.IsZero() {
		return bearer{}, refuse(reasonNoExpiry, "the token has no exp: only projected tokens are taken")
	}
	return bound(t)
}

// bound reads whose token it is: sub, and the claim kubernetes.io that must agree with it (KEP-1205).
func bound(t *jwt.Token) (bearer, error) {
	ns, sa, ok := serviceAccount(t.Subject)
	if !ok {
		return bearer{}, refuse(reasonSubject, "sub %.200q is no service account", t.Subject)
	}
	claim, _ := t.Claims["kubernetes.io"].(map[string]any)
	if got := text(claim, "namespace"); got != ns {
		return bearer{}, refuse(reasonSubject, "kubernetes.io namespace is %.200q, sub has %q", got, ns)
	}
	if got := text(claim, "serviceaccount", "name"); got != sa {
		return bearer{}, refuse(reasonSubject, "kubernetes.io serviceaccount is %.200q, sub has %q", got, sa)
	}
	b := bearer{namespace: ns, serviceAccount: sa, pod: text(claim, "pod", "name"), podUID: text(claim, "pod", "uid"), expires: t.Expires}
	if (b.pod == "") != (b.podUID == "") {
		return bearer{}, refuse(reasonSubject, "kubernetes.io pod has a name without uid, or the reverse")
	}
	return b, nil
}

// text follows names into a claim; "" where there is no such string.
func text(claim map[string]any, path ...string) string {
	for _, name := range path[:len(path)-1] {
		claim, _ = claim[name].(map[string]any)
	}
	s, _ := claim[path[len(path)-1]].(string)
	return s
}

// username is how the API server calls the service account.
func (b bearer) username() string {
	return "system:serviceaccount:" + b.namespace + ":" + b.serviceAccount
}

// serviceAccount reads system:serviceaccount:NS:SA.
func serviceAccount(username string) (namespace, name string, ok bool) {
	parts := strings.Split(username, ":")
	ok = len(parts) == 4 && parts[0] == "system" && parts[1] == "serviceaccount" && !slices.Contains(parts, "")
	if !ok {
		return "", "", false
	}
	return parts[2], parts[3], true
}
