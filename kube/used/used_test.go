package used_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/kube/used"
)

var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }) }

type lab struct {
	t      *testing.T
	client kubernetes.Interface
	space  string
	day    atomic.Int64 // added to the clock
}

func newLab(t *testing.T, space string) *lab {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
			goleak.IgnoreAnyFunction("net/http/internal/http2.(*clientConnReadLoop).run"))
	})
	l := &lab{t: t, client: kubernetes.NewForConfigOrDie(api), space: space}
	_, err := l.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: space}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start runs a replica that writes every so often.
func (l *lab) start(every time.Duration) (*used.Used, func()) {
	l.t.Helper()
	u, err := used.New(used.Config{Client: l.client, Namespace: l.space, Every: every, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().AddDate(0, 0, int(l.day.Load())) }})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(stop)
	l.soon("what was kept", u.Synced)
	return u, stop
}

func (l *lab) soon(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	l.t.Fatalf("%s: does not come", what)
}

func (l *lab) kept(ns string) map[string]string {
	c, err := l.client.CoreV1().ConfigMaps(l.space).Get(l.t.Context(), kube.UsedConfigMap+ns, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return c.Data
}

// lines counts the hosts of a workload, after the line that says when it was used.
func lines(text string) int { return strings.Count(text, "\n") - strings.Count(text, "# used ") }

// What is noted is known at once, written when the process ends, and known to the next one.
func TestKeptOverRestart(t *testing.T) {
	l := newLab(t, "used-restart")
	u, stop := l.start(time.Hour)
	u.Note("shop", "cart", []string{"b.shop.svc.cluster.local", "a.shop.svc.cluster.local", "NOT A HOST", "", strings.Repeat("x", 254)})
	u.Note("shop", "Not-A-Name", []string{"a"})
	u.Note("../up", "cart", []string{"a"})
	want := []string{"a.shop.svc.cluster.local", "b.shop.svc.cluster.local"}
	if got := u.Names("shop", "cart"); !slices.Equal(got, want) {
		t.Fatalf("at once: %q", got)
	}
	if l.kept("shop") != nil {
		t.Error("written before its time")
	}
	stop()
	again, _ := l.start(time.Hour)
	if got := again.Names("shop", "cart"); !slices.Equal(got, want) {
		t.Errorf("after a restart: %q", got)
	}
	if got := again.Names("shop", "other"); len(got) != 0 {
		t.Errorf("of nobody: %q", got)
	}
}

// Two replicas that note other hosts of one workload, and of two, end up with all of them.
func TestReplicasUnite(t *testing.T) {
	l := newLab(t, "used-replicas")
	one, _ := l.start(20 * time.Millisecond)
	two, _ := l.start(20 * time.Millisecond)
	var want []string
	for i := range 20 {
		host := fmt.Sprintf("h%02d", i)
		want = append(want, host)
		[]*used.Used{one, two}[i%2].Note("shop", "cart", []string{host})
		[]*used.Used{one, two}[i%2].Note("shop", "pay", []string{host})
		time.Sleep(7 * time.Millisecond)
	}
	for _, name := range []string{"cart", "pay"} {
		l.soon("all hosts in the ConfigMap", func() bool { return lines(l.kept("shop")[name]) == len(want) })
		l.soon("all hosts at both", func() bool {
			return slices.Equal(one.Names("shop", name), want) && slices.Equal(two.Names("shop", name), want)
		})
	}
}

// What somebody writes over comes back.
func TestOverwrittenHostsComeBack(t *testing.T) {
	l := newLab(t, "used-overwritten")
	u, _ := l.start(20 * time.Millisecond)
	u.Note("shop", "cart", []string{"mine"})
	l.soon("the write", func() bool { return strings.Contains(l.kept("shop")["cart"], "\nmine ") })
	body := fmt.Sprintf(`{"data":{"cart":"theirs %s\nbroken line\n"}}`, time.Now().UTC().Format(time.DateOnly))
	_, err := l.client.CoreV1().ConfigMaps(l.space).Patch(t.Context(), kube.UsedConfigMap+"shop", types.MergePatchType, []byte(body), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.soon("both", func() bool {
		text := l.kept("shop")["cart"]
		return strings.Contains(text, "mine ") && strings.Contains(text, "theirs ")
	})
	if got := u.Names("shop", "cart"); !slices.Equal(got, []string{"mine", "theirs"}) {
		t.Errorf("%q", got)
	}
}

// Beyond MaxHosts the longest unused go; after Forget all.
func TestForgotten(t *testing.T) {
	l := newLab(t, "used-forgotten")
	u, _ := l.start(20 * time.Millisecond)
	u.Note("shop", "cart", []string{"old"})
	l.day.Store(1)
	var many []string
	for i := range used.MaxHosts {
		many = append(many, fmt.Sprintf("h%d", i))
	}
	u.Note("shop", "cart", many)
	if got := u.Names("shop", "cart"); len(got) != used.MaxHosts || slices.Contains(got, "old") {
		t.Errorf("%d hosts, the oldest among them: %v", len(got), slices.Contains(got, "old"))
	}
	l.soon("the write", func() bool { return lines(l.kept("shop")["cart"]) == used.MaxHosts })
	l.day.Store(1 + int64(used.Forget/(24*time.Hour)) + 1)
	if got := u.Names("shop", "cart"); len(got) != 0 {
		t.Errorf("%d hosts that nobody used for a month", len(got))
	}
	l.soon("the workload to go", func() bool { return len(l.kept("shop")) == 0 })
}

// Beyond MaxWorkloads the least recently used of a namespace go, here and in the ConfigMap, whatever their names.
func TestLeastRecentlyUsedWorkloadsGo(t *testing.T) {
	l := newLab(t, "used-workloads")
	u, _ := l.start(20 * time.Millisecond)
	name := func(i int) string { return fmt.Sprintf("w-%04d", i) }
	for i := range used.MaxWorkloads {
		u.Note("shop", name(i), []string{"a"})
	}
	l.soon("the write", func() bool { return len(l.kept("shop")) == used.MaxWorkloads })
	l.day.Store(1)
	u.Note("shop", name(0), []string{"a"})
	for i := range 3 {
		u.Note("shop", name(used.MaxWorkloads+i), []string{"a"})
	}
	u.Note("bank", "ledger", []string{"a"})
	for i, want := range map[int]int{0: 1, 1: 0, 2: 0, 3: 0, 4: 1, used.MaxWorkloads + 2: 1} {
		if got := u.Names("shop", name(i)); len(got) != want {
			t.Errorf("%s: %q", name(i), got)
		}
	}
	l.soon("the same in the ConfigMap", func() bool {
		kept := l.kept("shop")
		return len(kept) == used.MaxWorkloads && kept[name(0)] != "" && kept[name(1)] == "" && kept[name(used.MaxWorkloads+2)] != ""
	})
	if got := u.Names("bank", "ledger"); len(got) != 1 {
		t.Errorf("of another namespace: %q", got)
	}
}

// What is saved where not all has room is what was used last, not what comes first by name.
func TestFullConfigMapKeepsTheLastUsed(t *testing.T) {
	l := newLab(t, "used-full")
	u, _ := l.start(20 * time.Millisecond)
	var hosts []string
	for i := range used.MaxHosts {
		hosts = append(hosts, fmt.Sprintf("%s%03d", strings.Repeat("x", 247), i))
	}
	last := []string{"d", "e", "f"} // 262 KB each
	for _, name := range append([]string{"a", "b", "c"}, last...) {
		u.Note("shop", name, hosts)
	}
	whole := func(data map[string]string) bool {
		return len(data) == len(last) && !slices.ContainsFunc(last, func(n string) bool { return lines(data[n]) != len(hosts) })
	}
	l.soon("the last used", func() bool { return whole(l.kept("shop")) })
	// Another replica knows what was used last, and makes room for what it learns.
	again, _ := l.start(20 * time.Millisecond)
	again.Note("shop", "0", hosts)
	last = []string{"0", "e", "f"}
	l.soon("the one used now beside the last before", func() bool { return whole(l.kept("shop")) })
}

// Replicas that have too much between them come to rest.
func TestReplicasThatForgetDoNotFight(t *testing.T) {
	l := newLab(t, "used-peace")
	one, _ := l.start(20 * time.Millisecond)
	two, _ := l.start(20 * time.Millisecond)
	for i := range 2 * used.MaxWorkloads {
		[]*used.Used{one, two}[i%2].Note("shop", fmt.Sprintf("w-%d", i), []string{"a"})
	}
	version, same := "", 0
	l.soon("an end of the writing, with what has room", func() bool {
		c, err := l.client.CoreV1().ConfigMaps(l.space).Get(t.Context(), kube.UsedConfigMap+"shop", metav1.GetOptions{})
		if err != nil || c.ResourceVersion != version {
			same = 0
		}
		same++
		version = c.GetResourceVersion()
		return same > 40 && len(c.Data) > 0
	})
	kept := l.kept("shop")
	if len(kept) != used.MaxWorkloads {
		t.Errorf("%d workloads in the ConfigMap", len(kept))
	}
}
