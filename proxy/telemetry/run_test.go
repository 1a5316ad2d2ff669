package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

// start runs a recorder until the returned func is called.
func start(t *testing.T, c Config) (*Recorder, func()) {
	t.Helper()
	r := New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// No line is lost, doubled or torn while the writer keeps up.
func TestLinesAreWrittenInFull(t *testing.T) {
	out := &sink{}
	r, stop := start(t, Config{Workload: "shop.cart", Writer: out, AccessLog: LogText})
	const n = 2000 // more than one buffer
	for i := range n {
		rec := exchange()
		rec.BytesSent = uint64(i)
		r.Record(rec)
		if i%250 == 0 {
			eventually(t, "the writer catches up", func() bool { return strings.Count(out.String(), "\n") == i+1 })
		}
	}
	stop()
	seen := map[string]int{}
	for line := range strings.Lines(out.String()) {
		if words := strings.Fields(line); len(words) != 25 {
			t.Errorf("torn: %q", line)
		} else {
			seen[words[11]]++
		}
	}
	for i := range n {
		if got := seen[strconv.Itoa(i)]; got != 1 {
			t.Errorf("line %d was written %d times", i, got)
		}
	}
}

func TestSetAccessLog(t *testing.T) {
	out := &sink{}
	r, stop := start(t, Config{Workload: "shop.cart", Writer: out})
	r.Record(exchange())
	r.SetAccessLog(LogJSON)
	r.Record(exchange())
	r.SetAccessLog(LogText)
	r.Record(exchange())
	r.SetAccessLog(LogOff)
	r.Record(exchange())
	stop()
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 3 || !json.Valid([]byte(lines[0])) || !strings.HasPrefix(lines[1], "shop.cart [2026-03-04T05:06:07.089Z] ") {
		t.Errorf("%q", lines)
	}
}

func TestBlockedWriterBlocksNobody(t *testing.T) {
	out, log := &sink{gate: make(chan struct{})}, &sink{}
	r, stop := start(t, Config{Workload: "shop.cart", Writer: out, AccessLog: LogText, Log: slog.New(slog.NewTextHandler(log, nil))})
	const n = 20000
	began := time.Now()
	for range n {
		r.Record(exchange())
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("recording took %v beside a blocked writer", took)
	}
	dropped := r.lines.dropped.Load()
	if dropped == 0 {
		t.Fatal("nothing was dropped: the buffer has no bound")
	}
	for i := range r.lines.shards {
		s := &r.lines.shards[i]
		s.mu.Lock()
		if len(s.buf) > maxBuffered+maxPath*8 {
			t.Errorf("%d bytes are buffered", len(s.buf))
		}
		s.mu.Unlock()
	}
	close(out.gate)
	stop()
	if got := uint64(strings.Count(out.String(), "\n")); got+dropped != n {
		t.Errorf("%d written and %d dropped are not %d", got, dropped, n)
	}
	if !strings.Contains(log.String(), "access log lines dropped") {
		t.Errorf("the drop was not said: %s", log)
	}
	families, _ := scrape(t, r)
	if got := families["signet_access_log_dropped_total"].Metric[0].Counter.GetValue(); got != float64(dropped) {
		t.Errorf("metric says %v, want %d", got, dropped)
	}
}

func TestRunEndsBesideABlockedWriter(t *testing.T) {
	out := &sink{gate: make(chan struct{})}
	r, stop := start(t, Config{Writer: out, AccessLog: LogText})
	r.Record(exchange())
	began := time.Now()
	stop()
	if took := time.Since(began); took > lastWords+time.Second {
		t.Errorf("Run took %v to end", took)
	}
	close(out.gate)
}

func TestBrokenWriterIsCounted(t *testing.T) {
	out, log := &sink{fail: true}, &sink{}
	r, stop := start(t, Config{Writer: out, AccessLog: LogJSON, Log: slog.New(slog.NewTextHandler(log, nil))})
	r.Record(exchange())
	r.Record(exchange())
	stop()
	if got := r.lines.dropped.Load(); got != 2 || !strings.Contains(log.String(), "lines=2") {
		t.Errorf("%d dropped, log: %s", got, log)
	}
}

func TestRefusedIsLoggedWithinItsBudget(t *testing.T) {
	log := &sink{}
	r, stop := start(t, Config{Log: slog.New(slog.NewTextHandler(log, nil))})
	local, remote := netip.MustParseAddrPort("127.0.10.2:80"), netip.MustParseAddrPort("127.0.10.1:5000")
	now := time.Unix(1000, 0)
	for range 25 {
		r.refusals.add(local, remote, "plaintext_under_strict", nil, now)
	}
	r.refusals.add(local, remote, "expired", errors.New("bad\nname "+strings.Repeat("y", 5000)), now)
	r.refusals.add(local, remote, "plaintext_under_strict", nil, now.Add(time.Second))
	stop()
	text := log.String()
	if got := strings.Count(text, "reason=plaintext_under_strict"); got != refusedPerSecond+1 {
		t.Errorf("%d lines, want %d:\n%s", got, refusedPerSecond+1, text)
	}
	for _, want := range []string{"suppressed=15", "local=127.0.10.2:80", "remote=127.0.10.1:5000", "reason=expired", `bad\nname`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if len(text) > 8<<10 {
		t.Errorf("%d bytes were logged", len(text))
	}
}

func TestSuppressedRefusalsAreSaidInTheEnd(t *testing.T) {
	log := &sink{}
	r, stop := start(t, Config{Log: slog.New(slog.NewTextHandler(log, nil))})
	a := netip.MustParseAddrPort("127.0.0.1:1")
	for range refusedPerSecond + 5 {
		r.refusals.add(a, a, "expired", nil, time.Unix(1000, 0))
	}
	stop()
	if !strings.Contains(log.String(), `msg="more connections refused" reason=expired suppressed=5`) {
		t.Errorf("%s", log)
	}
}

// Everything at once, for the race detector; every exchange is counted.
func TestConcurrentUse(t *testing.T) {
	out := &sink{}
	r, stop := start(t, Config{Workload: "shop.cart", Writer: out, AccessLog: LogText})
	const workers, each = 8, 500
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				rec := exchange()
				rec.Status = 200 + (w+i)%7
				r.Record(rec)
				r.Refused(rec.DownstreamLocal, rec.DownstreamRemote, "expired", nil)
			}
		})
	}
	wg.Go(func() {
		for i := range 12 {
			r.SetAccessLog(AccessLog(i % 3))
			r.Retain([]*proxy.Party{web, cart}, []*proxy.Destination{cartService})
			scrape(t, r)
		}
	})
	wg.Wait()
	stop()
	var total uint64
	for _, s := range r.book.all() {
		total += s.requests.Load()
	}
	if total != workers*each {
		t.Errorf("%d of %d exchanges were counted", total, workers*each)
	}
}
