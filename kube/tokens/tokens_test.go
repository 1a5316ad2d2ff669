package tokens_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	return sign(t, newKey(t), kid, claims)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func sign(t testing.TB, key *ecdsa.PrivateKey, kid string, claims map[string]any) string {
	t.Helper()
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

// TestJudge tries every token offline, and by TokenReview besides.
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
	ended := b.pod(t, "ended", "cart")
	ofEnded := b.token(t, "cart", ended, "signet-ca")
	b.end(t, ended)
	b.account(t, "former")
	orphan := b.pod(t, "orphan", "former")
	ofFormer := b.token(t, "former", orphan, "signet-ca")
	must(t, b.admin.CoreV1().ServiceAccounts(b.ns).Delete(t.Context(), "former", metav1.DeleteOptions{}))
	parts := strings.Split(good, ".")
	foreign := payload(t, good)
	foreign["iss"] = "https://other.cluster"
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	tests := map[string]struct {
		token   string
		later   time.Duration
		refused string // the reason, "" for none
	}{
		"good":              {token: good},
		"Istio's audience":  {token: b.token(t, "cart", pod, "istio-ca")},
		"two audiences":     {token: b.token(t, "cart", pod, "vault", "signet-ca")},
		"pod made again":    {token: b.token(t, "cart", again, "signet-ca")},
		"another audience":  {token: b.token(t, "cart", pod, "vault"), refused: "audience"},
		"the API server's":  {token: b.token(t, "cart", pod), refused: "audience"},
		"bound to no pod":   {token: b.token(t, "cart", nil, "signet-ca"), refused: "unbound"},
		"deleted pod":       {token: ofGone, refused: "pod_gone"},
		"ended pod":         {token: ofEnded, refused: "pod_gone"},
		"another of a name": {token: ofOld, refused: "pod_gone"},
		"expired":           {token: good, later: 2 * time.Hour, refused: "expired"},
		"tampered":          {token: parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(mustDecode(t, parts[1]), "cart", "evil", 1))) + "." + parts[2], refused: "signature"},
		"another cluster's": {token: forge(t, "x", foreign), refused: "unknown_issuer"},
		"forged":            {token: forge(t, "x", payload(t, good)), refused: "unknown_key"},
		"no algorithm":      {token: none, refused: "algorithm"},
		"garbage":           {token: "hello", refused: "malformed"},
		"too long":          {token: strings.Repeat("a", 17<<10), refused: "too_long"},
	}
	for _, mode := range []string{"offline", "review"} {
		j := b.judge(t, func(c *tokens.Config) { c.Review, c.ReviewsPerSecond = mode == "review", 1000 })
		for name, tt := range tests {
			t.Run(mode+"/"+name, func(t *testing.T) {
				want := tt.refused
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
		// A service account that was deleted under a pod that lives: only the API server knows.
		_, _, _, err := j.Identify(t.Context(), ofFormer, time.Now())
		if refused := err != nil && strings.Contains(err.Error(), "judging service-account token: review"); refused != (mode == "review") || !refused && err != nil {
			t.Errorf("%s: a deleted service account: %v", mode, err)
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
	if n := count(t, deaf, "signet_ca_token_pods_asked_total", ""); n == 0 || n > 5 || taken.Load() != 50 {
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

// TestGonePodTakesOnePlace: a token of a pod that is gone, sent by thousands, keeps no place from others and asks once.
func TestGonePodTakesOnePlace(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	gone := b.pod(t, "gone", "cart")
	token := b.token(t, "cart", gone, "signet-ca")
	b.delete(t, "gone")
	j := b.judge(t, func(c *tokens.Config) { c.PodWait = 3 * time.Second })
	for range 2 { // the second time it is remembered
		var wg sync.WaitGroup
		for range 2000 {
			wg.Go(func() {
				if _, _, _, err := j.Identify(t.Context(), token, time.Now()); err == nil {
					t.Error("the token of a deleted pod was taken")
				}
			})
		}
		wg.Wait()
	}
	busy, all := count(t, j, "signet_ca_tokens_refused_total", "busy"), count(t, j, "signet_ca_tokens_refused_total", "pod_gone")
	if n := count(t, j, "signet_ca_token_pods_asked_total", ""); n != 1 || busy != 0 || all != 4000 {
		t.Errorf("asked %v times; refused %v for the pod, %v for want of a place", n, all, busy)
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

// TestKeysOfSeveralServers: while keys and issuer are changed server by server, what any of them published goes on.
func TestKeysOfSeveralServers(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	pod := b.pod(t, "cart-1", "cart")
	before := b.token(t, "cart", pod, "signet-ca")
	j := b.judge(t, nil)
	if _, _, _, err := j.Identify(t.Context(), before, time.Now()); err != nil {
		t.Fatal(err)
	}
	key, claims := newKey(t), payload(t, before)
	claims["iss"] = "https://next.cluster"
	after := sign(t, key, "next", claims)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "next", Algorithm: "ES256", Use: "sig"}}})
	must(t, err)
	claims["iss"] = payload(t, before)["iss"]
	b.other.Store(&published{"/openid/v1/jwks": string(set), "/.well-known/openid-configuration": `{"issuer":"https://next.cluster"}`})
	// An unknown key makes it ask again, once that is not too soon.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, _, _, _ = j.Identify(t.Context(), forge(t, "unknown", claims), time.Now())
		if _, _, _, err = j.Identify(t.Context(), after, time.Now()); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatalf("the new key and issuer: %v", err)
	}
	if _, _, _, err := j.Identify(t.Context(), before, time.Now()); err != nil {
		t.Errorf("the old key and issuer: %v", err)
	}
}

// TestReviewOfGenuineTokensOnly: nobody waits for a turn, or takes one from others, without a token that is good offline.
func TestReviewOfGenuineTokensOnly(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	good := b.token(t, "cart", b.pod(t, "cart-1", "cart"), "signet-ca")
	j := b.judge(t, func(c *tokens.Config) { c.Review, c.ReviewsPerSecond = true, 1 })
	claims := payload(t, good)
	var wg sync.WaitGroup
	for i := range 100 {
		garbage := "x." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":9%09d}`, i)) + ".x"
		if i%2 == 1 {
			garbage = forge(t, rand.Text(), claims)
		}
		wg.Go(func() {
			if _, _, _, err := j.Identify(t.Context(), garbage, time.Now()); err == nil {
				t.Error("garbage was taken")
			}
		})
	}
	wg.Wait()
	if n := b.reviews.Load(); n != 0 {
		t.Errorf("%d TokenReviews of garbage", n)
	}
	if _, _, _, err := j.Identify(t.Context(), good, time.Now()); err != nil || b.reviews.Load() != 1 {
		t.Errorf("a good token: %v after %d TokenReviews", err, b.reviews.Load())
	}
	// Without keys nothing is taken, and the API server is not asked.
	b.other.Store(&published{})
	blind := b.judge(t, func(c *tokens.Config) { c.Review = true })
	if _, _, _, err := blind.Identify(t.Context(), good, time.Now()); err == nil || !strings.Contains(err.Error(), "no_issuer") || b.reviews.Load() != 1 {
		t.Errorf("without keys: %v after %d TokenReviews", err, b.reviews.Load())
	}
}

// TestOnePodWaitsForFewReviews: a pod that brings many tokens has two of them wait, and others find a place.
func TestOnePodWaitsForFewReviews(t *testing.T) {
	noLeaks(t)
	b := newBench(t)
	b.account(t, "cart")
	b.account(t, "pay")
	pod := b.pod(t, "cart-1", "cart")
	other := b.token(t, "pay", b.pod(t, "pay-1", "pay"), "signet-ca")
	j := b.judge(t, func(c *tokens.Config) { c.Review, c.ReviewsPerSecond = true, 1 })
	const many = 12
	var all []string
	for i := range many {
		all = append(all, b.token(t, "cart", pod, "signet-ca", fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for _, token := range all {
		wg.Go(func() { _, _, _, _ = j.Identify(t.Context(), token, time.Now()) })
	}
	wg.Go(func() {
		if _, _, _, err := j.Identify(t.Context(), other, time.Now()); err != nil {
			t.Errorf("another pod: %v", err)
		}
	})
	wg.Wait()
	busy := count(t, j, "signet_ca_tokens_refused_total", "busy")
	if n := b.reviews.Load(); float64(n) != many+1-busy || busy < many/2 {
		t.Errorf("%d TokenReviews, %v tokens refused at once", n, busy)
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
	for i := range 20 {
		token := b.token(t, "cart", b.pod(t, fmt.Sprintf("pod-%d", i), "cart"), "signet-ca")
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
	if n := b.reviews.Load(); n != 20 || float64(n) > 10+10*time.Since(began).Seconds()+1 {
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
