package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	admission "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// caller is who knocks from an address, over real HTTP/2 and one connection as long as that has room.
func caller(t *testing.T, from string) *http.Transport {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DialContext: dialer.DialContext, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// review is the AdmissionReview of a pod that is created.
func review(t *testing.T, namespace string, pod *corev1.Pod) []byte {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(&admission.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admission.AdmissionRequest{UID: types.UID("u"), Operation: admission.Create, Namespace: namespace,
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Object: runtime.RawExtension{Raw: raw}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func (w *world) knock(ctx context.Context, by *http.Transport, body io.Reader) (int, *admission.AdmissionResponse, error) {
	r, err := http.NewRequestWithContext(ctx, "POST", w.loopback()+InjectPath, body)
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := by.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		return 0, nil, fmt.Errorf("the answer came over %s", resp.Proto)
	}
	answer := &admission.AdmissionReview{}
	if resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(resp.Body).Decode(answer)
	}
	return resp.StatusCode, answer.Response, err
}

func (w *world) loopback() string { return strings.Replace(w.url, "localhost", "127.0.0.1", 1) }

func alone(*world) ([]string, []string) { return nil, nil }

// Hundreds of requests whose bodies don't come hold up no review: it is answered while they all wait.
func TestWithheldBodiesHoldNothingUp(t *testing.T) {
	w := start(t, alone)
	in := namespace(t, "in", "istio-injection=enabled")
	var written, attackers sync.WaitGroup
	var over atomic.Int32
	var codes sync.Map
	for range 20 {
		by := caller(t, "127.0.0.2")
		for range 10 {
			written.Add(1)
			attackers.Go(func() {
				body, feed := io.Pipe()
				defer feed.Close()
				go func() { _, _ = feed.Write([]byte("{")) }()
				wrote := sync.OnceFunc(written.Done)
				defer wrote()
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaders: wrote})
				code, _, err := w.knock(ctx, by, body)
				over.Add(1)
				codes.Store(fmt.Sprint(code, err), true)
			})
		}
	}
	written.Wait()
	good := review(t, in, simple(nil))
	for range 3 {
		code, response, err := w.knock(t.Context(), caller(t, "127.0.0.1"), bytes.NewReader(good))
		if err != nil || code != http.StatusOK || !response.Allowed || len(response.Patch) == 0 {
			t.Fatalf("a good review: %d, %v", code, err)
		}
	}
	if n := over.Load(); n > 0 {
		t.Errorf("the good reviews were answered when %d of the others had given up", n)
	}
	attackers.Wait()
	if _, ok := codes.Load("408 <nil>"); !ok {
		codes.Range(func(code, _ any) bool { t.Errorf("a withheld body: %v", code); return true })
	}
}

// An API server sends many reviews at once over one connection: all are answered.
func TestManyReviewsOfOneCaller(t *testing.T) {
	w := start(t, alone)
	in := namespace(t, "in", "istio-injection=enabled")
	good, by := review(t, in, simple(nil)), caller(t, "127.0.0.1")
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if code, response, err := w.knock(t.Context(), by, bytes.NewReader(good)); err != nil || code != http.StatusOK || len(response.Patch) == 0 {
				t.Errorf("%d, %v", code, err)
			}
		})
	}
	all.Wait()
}

// The API server itself creates many pods at once.
func TestManyPodsAtOnce(t *testing.T) {
	w := start(t, injector("many"))
	in := namespace(t, "in", "test=many", "istio-injection=enabled")
	fast := rest.CopyConfig(restConfig)
	fast.QPS = -1
	quick := kubernetes.NewForConfigOrDie(fast)
	create := func() error {
		_, err := quick.CoreV1().Pods(in).Create(t.Context(), simple(nil), metav1.CreateOptions{DryRun: []string{"All"}})
		return err
	}
	eventually(t, "the first pod", func() bool { return create() == nil })
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			if err := create(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if w.events.take() != nil {
		t.Error("there are Events")
	}
}

// Bodies of one address are bounded together; those of others go on.
func TestBodiesOfOneAddressAreBounded(t *testing.T) {
	w := start(t, alone)
	in := namespace(t, "in", "istio-injection=enabled")
	const large = 2 << 20
	var full, others atomic.Int32
	var all sync.WaitGroup
	for range 24 {
		by := caller(t, "127.0.0.2")
		all.Go(func() {
			body, feed := io.Pipe()
			defer feed.Close()
			go func() { _, _ = feed.Write(bytes.Repeat([]byte(" "), large)) }()
			switch code, _, err := w.knock(t.Context(), by, body); {
			case code == http.StatusServiceUnavailable:
				full.Add(1)
			case code != http.StatusRequestTimeout:
				t.Errorf("%d, %v", code, err)
			default:
				others.Add(1)
			}
		})
	}
	all.Wait()
	if n := others.Load(); n > maxBytesPerSource/large || full.Load() == 0 {
		t.Errorf("%d bodies of 2 MiB were held at once, %d refused", n, full.Load())
	}
	if code, _, err := w.knock(t.Context(), caller(t, "127.0.0.2"), bytes.NewReader(review(t, in, simple(nil)))); code != http.StatusOK {
		t.Errorf("afterwards: %d, %v: the bytes were not given back", code, err)
	}
}

// Forged reviews of pods that want no sidecar ask the API server little, and fill no namespace with Events.
func TestForgedReviewsAskAndTellLittle(t *testing.T) {
	w := start(t, alone)
	var asked atomic.Int32
	ask := w.server.asks.ask
	w.server.asks.ask = func(ctx context.Context, name string) (map[string]string, error) {
		asked.Add(1)
		return ask(ctx, name)
	}
	out, other := namespace(t, "out"), namespace(t, "other", "istio-injection=enabled")
	forge := func(ns string, n int, pod *corev1.Pod) {
		t.Helper()
		var all sync.WaitGroup
		by := caller(t, "127.0.0.2")
		for i := range n {
			all.Go(func() {
				p := pod.DeepCopy()
				p.Name = fmt.Sprintf("forged-%d", i)
				if code, response, err := w.knock(t.Context(), by, bytes.NewReader(review(t, ns, p))); err != nil || code != http.StatusOK || len(response.Patch) > 0 {
					t.Errorf("%d, %v", code, err)
				}
			})
		}
		all.Wait()
	}
	begun := time.Now()
	forge(out, 400, simple(nil))
	if n, most := asked.Load(), 1+asksKnown+int32(time.Since(begun).Seconds()*asksKnown); n > most {
		t.Errorf("400 reviews of one namespace: %d questions, at most %d", n, most)
	}
	user := simple(func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64)}
		*p.Spec.SecurityContext.RunAsUser = 1337
	})
	w.events.take()
	forge(other, 50, user)
	if n := len(w.events.take()); n == 0 || n > tellBurst+1 {
		t.Errorf("50 reviews in one namespace: %d Events", n)
	}
	quiet := namespace(t, "quiet", "istio-injection=enabled")
	forge(quiet, 1, user)
	if got := w.events.take(); len(got) != 1 {
		t.Errorf("in another namespace: Events %q", got)
	}
	// Names that are no namespaces have a rate of their own, and are refused with the reason.
	asked.Store(0)
	var refused atomic.Int32
	var all sync.WaitGroup
	by := caller(t, "127.0.0.2")
	begun = time.Now()
	for i := range 100 {
		all.Go(func() {
			code, response, err := w.knock(t.Context(), by, bytes.NewReader(review(t, fmt.Sprintf("none-%d", i), simple(nil))))
			if err != nil || code != http.StatusOK || response.Allowed {
				t.Errorf("%d, %v", code, err)
				return
			}
			if strings.Contains(response.Result.Message, "too many such questions") {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if n, most := asked.Load(), 1+asksUnknown+int32(time.Since(begun).Seconds()*asksUnknown); n > most || refused.Load() != 100-n {
		t.Errorf("100 names: %d questions, at most %d; %d refused", n, most, refused.Load())
	}
}

// A question that has begun answers nobody who came later; those who wait for the next one share it.
func TestQuestionsAreSharedNeverStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, labels := 0, map[string]string{}
		release := make(chan struct{})
		a := newAsks(func(context.Context, string) (map[string]string, error) {
			begun++
			at := map[string]string{"l": labels["l"]}
			<-release
			return at, nil
		})
		a.known = rate.NewLimiter(1, 1)
		answers := make(chan string, 10)
		ask := func() {
			go func() {
				l, err := a.labels(t.Context(), "n", true)
				answers <- fmt.Sprintf("%s %v", l["l"], err)
			}()
			synctest.Wait()
		}
		ask()
		labels["l"] = "new"
		for range 5 {
			ask()
		}
		close(release)
		got := map[string]int{}
		for range 6 {
			got[<-answers]++
		}
		if begun != 2 {
			t.Errorf("%d questions for 1 and then 5", begun)
		}
		if got[" <nil>"] != 1 || got["new <nil>"] != 5 {
			t.Errorf("answers %v", got)
		}
	})
}
