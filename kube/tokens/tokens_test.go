package tokens_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-mesh/signet/kube/tokens"
)

// payload decodes the claims of a token.
func payload(t testing.TB, token string) map[string]any {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	must(t, err)
	var claims map[string]any
	must(t, json.Unmarshal(text, &claims))
	return claims
}

// forge signs claims with a key of another cluster.
func forge(t testing.TB, kid string, claims map[string]any) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	must(t, err)
	text, err := json.Marshal(claims)
	must(t, err)
	signed, err := signer.Sign(text)
	must(t, err)
	out, err := signed.CompactSerialize()
	must(t, err)
	return out
}

// TestJudge tries every token offline and by TokenReview.
func TestJudge(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	b.account(t, "pay")
	pod := b.pod(t, "cart-1", "cart")
	good := b.token(t, "cart", pod, "signet-ca")
	gone := b.pod(t, "gone", "cart")
	ofGone := b.token(t, "cart", gone, "signet-ca")
	b.delete(t, "gone")
	old := b.pod(t, "again", "cart")
	ofOld := b.token(t, "cart", old, "signet-ca")
	b.delete(t, "again")
	again := b.pod(t, "again", "cart")
	parts := strings.Split(good, ".")
	foreign := payload(t, good)
	foreign["iss"] = "https://other.cluster"
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	tests := map[string]struct {
		token            string
		later            time.Duration
		offline, reviews string // reasons of refusal, "" for none
	}{
		"good":              {token: good},
		"Istio's audience":  {token: b.token(t, "cart", pod, "istio-ca")},
		"two audiences":     {token: b.token(t, "cart", pod, "vault", "signet-ca")},
		"pod made again":    {token: b.token(t, "cart", again, "signet-ca")},
		"another audience":  {token: b.token(t, "cart", pod, "vault"), offline: "audience", reviews: "review"},
		"the API server's":  {token: b.token(t, "cart", pod), offline: "audience", reviews: "review"},
		"bound to no pod":   {token: b.token(t, "cart", nil, "signet-ca"), offline: "unbound", reviews: "unbound"},
		"deleted pod":       {token: ofGone, offline: "pod_gone", reviews: "review"},
		"another of a name": {token: ofOld, offline: "pod_gone", reviews: "review"},
		"expired":           {token: good, later: 2 * time.Hour, offline: "expired", reviews: "expired"},
		"tampered":          {token: parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(mustDecode(t, parts[1]), "cart", "evil", 1))) + "." + parts[2], offline: "signature", reviews: "review"},
		"another cluster's": {token: forge(t, "x", foreign), offline: "unknown_issuer", reviews: "review"},
		"forged":            {token: forge(t, "x", payload(t, good)), offline: "unknown_key", reviews: "review"},
		"no algorithm":      {token: none, offline: "algorithm", reviews: "review"},
		"garbage":           {token: "hello", offline: "malformed", reviews: "no_expiry"},
		"too long":          {token: strings.Repeat("a", 17<<10), offline: "too_long", reviews: "too_long"},
	}
	for _, mode := range []string{"offline", "review"} {
		j := b.judge(t, func(c *tokens.Config) { c.Review, c.ReviewsPerSecond = mode == "review", 1000 })
		for name, tt := range tests {
			t.Run(mode+"/"+name, func(t *testing.T) {
				want := tt.offline
				if mode == "review" {
					want = tt.reviews
				}
				before := count(t, j, "signet_ca_tokens_refused_total", want)
				ns, sa, pod, err := j.Identify(t.Context(), tt.token, time.Now().Add(tt.later))
				if want == "" {
					if err != nil || ns != b.ns || sa != "cart" || pod == "" {
						t.Errorf("identified %q %q %q, %v", ns, sa, pod, err)
					}
					return
				}
				if err == nil || sa != "" || !strings.Contains(err.Error(), "judging service-account token: "+want) {
					t.Fatalf("identified %q, %v; want a refusal for %q", sa, err, want)
				}
				if len(tt.token) > 100 && strings.Contains(err.Error(), tt.token[len(tt.token)-40:]) {
					t.Error("the error quotes the token")
				}
				if count(t, j, "signet_ca_tokens_refused_total", want) != before+1 {
					t.Error("not counted")
				}
			})
		}
	}
}

func mustDecode(t testing.TB, s string) string {
	text, err := base64.RawURLEncoding.DecodeString(s)
	must(t, err)
	return string(text)
}

func TestUnboundWhereTaken(t *testing.T) {
	b := newBench(t)
	b.account(t, "cart")
	j := b.judge(t, func(c *tokens.Config) { c.Unbound = true })
	if _, sa, pod, err := j.Identify(t.Context(), b.token(t, "cart", nil, "signet-ca"), time.Now()); err != nil || sa != "cart" || pod != "" {
		t.Errorf("identified %q %q, %v", sa, pod, err)
	}
}

// TestYoungPods: a pod that no informer knows yet is waited for, then the API server is asked, but only so often.
func TestYoungPods(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	pod := b.pod(t, "cart-1", "cart")
	token := b.token(t, "cart", pod, "signet-ca")
	var known atomic.Bool
	late := b.judge(t, func(c *tokens.Config) {
		c.PodWait = 10 * time.Second
		c.Pods = func(string, string) (string, string, bool) { return string(pod.UID), "cart", known.Load() }
	})
	timer := time.AfterFunc(200*time.Millisecond, func() { known.Store(true) })
	defer timer.Stop()
	if _, _, _, err := late.Identify(t.Context(), token, time.Now()); err != nil {
		t.Error(err)
	}
	if n := count(t, late, "signet_ca_token_pods_asked_total", ""); n != 0 {
		t.Errorf("the API server was asked %v times", n)
	}
	// The informer never hears of any pod: what the API server says counts, a few times a second.
	deaf := b.judge(t, func(c *tokens.Config) {
		c.PodWait = 10 * time.Millisecond
		c.Pods = func(string, string) (string, string, bool) { return "", "", false }
	})
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, _, _, err := deaf.Identify(t.Context(), token, time.Now()); err == nil {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	if n := count(t, deaf, "signet_ca_token_pods_asked_total", ""); n == 0 || n > 10 || int64(n) != taken.Load() {
		t.Errorf("asked %v times, %d taken", n, taken.Load())
	}
	// Another service account than the token's is no pod of its.
	wrong := b.judge(t, func(c *tokens.Config) {
		c.Pods = func(string, string) (string, string, bool) { return string(pod.UID), "pay", true }
	})
	if _, _, _, err := wrong.Identify(t.Context(), token, time.Now()); err == nil || !strings.Contains(err.Error(), "pod_account") {
		t.Errorf("another service account: %v", err)
	}
}

// TestUnknownKeysAreAskedForSeldom: tokens with unknown key names do not turn into requests.
func TestUnknownKeysAreAskedForSeldom(t *testing.T) {
	b := newBench(t)
	b.account(t, "cart")
	pod := b.pod(t, "cart-1", "cart")
	good := b.token(t, "cart", pod, "signet-ca")
	j := b.judge(t, nil)
	if _, _, _, err := j.Identify(t.Context(), good, time.Now()); err != nil {
		t.Fatal(err)
	}
	claims := payload(t, good)
	var wg sync.WaitGroup
	for range 40 {
		token := forge(t, rand.Text(), claims)
		wg.Go(func() {
			if _, _, _, err := j.Identify(t.Context(), token, time.Now()); err == nil {
				t.Error("a forged token was taken")
			}
		})
	}
	wg.Wait()
	if n := b.fetches.Load(); n > 3 {
		t.Errorf("keys were fetched %d times", n)
	}
}

// TestReviewsAreFew: each token is reviewed once, whoever asks how often, and no faster than allowed.
func TestReviewsAreFew(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	pod := b.pod(t, "cart-1", "cart")
	j := b.judge(t, func(c *tokens.Config) { c.Review, c.ReviewsPerSecond = true, 10 })
	began := time.Now()
	var wg sync.WaitGroup
	for range 20 {
		token := b.token(t, "cart", pod, "signet-ca")
		for range 5 {
			wg.Go(func() {
				for range 3 {
					if _, _, _, err := j.Identify(t.Context(), token, time.Now()); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	// Two tokens of the same second have the same text.
	if n := b.reviews.Load(); n > 20 || float64(n) > 10+10*time.Since(began).Seconds()+1 {
		t.Errorf("%d TokenReviews in %v", n, time.Since(began))
	}
	// A pod that is deleted is refused although its token is remembered.
	token := b.token(t, "cart", pod, "signet-ca")
	if _, _, _, err := j.Identify(t.Context(), token, time.Now()); err != nil {
		t.Error(err)
	}
	b.delete(t, "cart-1")
	if _, _, _, err := j.Identify(t.Context(), token, time.Now()); err == nil || !strings.Contains(err.Error(), "pod_gone") {
		// The informer may not have heard of it yet.
		time.Sleep(time.Second)
		if _, _, _, err = j.Identify(t.Context(), token, time.Now()); err == nil || !strings.Contains(err.Error(), "pod_gone") {
			t.Errorf("a deleted pod: %v", err)
		}
	}
}
