// Command scale measures the control plane at size: a real API server, 1,000 Services with 5,000 endpoints, signetd, and 500
// sidecars' ADS streams, each of which uses three hosts. It changes one endpoint after another and prints how long the change
// took to the streams that use it, whether others were sent anything, the bytes, and what signetd cost. At last it kills signetd
// and counts the seconds until a new one serves all streams.
//
//	make scale, or: make build && go run ./test/scale [-services N] [-endpoints N] [-streams N] [-changes N] [-check]
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/kube/kubetest"
)

// size is how large the mesh is.
type size struct {
	services, endpoints, streams, changes, processes, hosts int
	program                                                 string
	check                                                   bool
}

// The goals; -check holds a run to the first two.
const (
	goalLatency = 200 // ms, p99
	goalMemory  = 500 // MB
	goalRestart = 10  // s
)

func main() {
	var s size
	flag.IntVar(&s.services, "services", 1000, "how many Services")
	flag.IntVar(&s.endpoints, "endpoints", 5000, "how many Pods, evenly behind the Services")
	flag.IntVar(&s.streams, "streams", 500, "how many of the Pods have a sidecar that is connected")
	flag.IntVar(&s.hosts, "hosts", 3, "how many Services each of them uses")
	flag.IntVar(&s.changes, "changes", 240, "how many endpoints change, one after another (at most 249)")
	flag.IntVar(&s.processes, "processes", 4, "how many processes the streams are spread over")
	flag.StringVar(&s.program, "signetd", "bin/signetd", "the program that is measured")
	flag.BoolVar(&s.check, "check", false, "end with 1 if a goal is missed; without it only what went astray is a failure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if os.Getenv(childEnv) != "" {
		if err := child(ctx, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "scale:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func run(ctx context.Context, s size) error {
	say("starting etcd and kube-apiserver")
	cfg, stop, err := kubetest.Start("deploy/crds")
	if err != nil {
		return err
	}
	defer stop()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	w := &world{size: s, client: client}
	if err := w.build(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "signet-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	plane, err := startPlane(ctx, cfg, s.program, dir)
	if err != nil {
		return err
	}
	defer plane.stop()
	say("signetd is ready after %.1f s, %d MB", plane.took.Seconds(), plane.memory())
	f, err := startFleet(ctx, w, plane, dir)
	if err != nil {
		return err
	}
	defer f.stop()
	say("%d streams have their configuration after %.1f s", s.streams, f.took.Seconds())
	p99, err := measure(ctx, w, plane, f)
	if err != nil {
		return err
	}
	memory := plane.memory()
	again, err := restart(ctx, w, plane, cfg, dir)
	if err != nil {
		return err
	}
	defer again.stop()
	met := p99 < goalLatency && memory < goalMemory
	fmt.Printf("goals     p99 %.0f ms of %d, resident %d MB of %d: met %v\n", p99, goalLatency, memory, goalMemory, met)
	if s.check && !met {
		return errors.New("a goal is missed")
	}
	return nil
}

// restart kills signetd and starts it again; the streams find it by themselves.
func restart(ctx context.Context, w *world, p *plane, cfg *rest.Config, dir string) (*plane, error) {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	killed := time.Now()
	again, err := startPlane(ctx, cfg, w.size.program, dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		n := again.inSync()
		if n == w.size.streams {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			again.stop()
			return nil, fmt.Errorf("a minute after the restart %d of %d streams are in sync", n, w.size.streams)
		}
	}
	all := time.Since(killed)
	fmt.Printf("restart   ready %.1f s after the kill; all streams are served %.1f s later (goal %d s), %.1f s of CPU, %d MB resident\n",
		again.took.Seconds(), (all - again.took).Seconds(), goalRestart, again.cpu(), again.memory())
	return again, nil
}

// event is a line of a child: a client applied a view (Marker "" if none of its endpoints is a marker).
type event struct {
	Client int       `json:"client"`
	Ready  bool      `json:"ready,omitempty"`
	Marker string    `json:"marker,omitempty"`
	Bytes  int       `json:"bytes,omitempty"`
	At     time.Time `json:"at"`
}

// fleet is the children and what they say.
type fleet struct {
	took     time.Duration
	children []*exec.Cmd
	inputs   []io.Closer
	mu       sync.Mutex // guards events
	events   []event
	read     errgroup.Group
}

// order is a line to a child: one client.
type order struct {
	Client         int       `json:"client"`
	Namespace, Pod string    `json:"-"`
	Node           [2]string `json:"node"`
	Token          string    `json:"token"`
	Control        string    `json:"control"`
	Roots          string    `json:"roots"`
	Hosts          []string  `json:"hosts"`
}

func startFleet(ctx context.Context, w *world, p *plane, dir string) (*fleet, error) {
	began := time.Now()
	f := &fleet{}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	orders, err := w.orders(ctx, p)
	if err != nil {
		return nil, err
	}
	say("tokens for %d sidecars are there after %.1f s", len(orders), time.Since(began).Seconds())
	began = time.Now()
	for i := range w.size.processes {
		c := exec.CommandContext(ctx, self)
		c.Env, c.Stderr = append(os.Environ(), childEnv+"=1"), os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := c.Start(); err != nil {
			return nil, err
		}
		f.children, f.inputs = append(f.children, c), append(f.inputs, in)
		f.read.Go(func() error { return f.listen(out) })
		enc := json.NewEncoder(in)
		for k := i; k < len(orders); k += w.size.processes {
			if err := enc.Encode(orders[k]); err != nil {
				return nil, err
			}
		}
	}
	err = f.until(ctx, 2*time.Minute, func(all []event) bool {
		ready := map[int]bool{}
		for _, e := range all {
			if e.Ready {
				ready[e.Client] = true
			}
		}
		return len(ready) == w.size.streams
	})
	f.took = time.Since(began)
	return f, err
}

func (f *fleet) listen(out io.Reader) error {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("reading a child: %w", err)
		}
		f.mu.Lock()
		f.events = append(f.events, e)
		f.mu.Unlock()
	}
	return lines.Err()
}

// until waits for a condition on what the children said.
func (f *fleet) until(ctx context.Context, most time.Duration, ok func([]event) bool) error {
	for end := time.Now().Add(most); ; {
		f.mu.Lock()
		done := ok(f.events)
		f.mu.Unlock()
		if done {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the streams are not where they should be after %v", most)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (f *fleet) take() []event {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.events
	f.events = nil
	return out
}

func (f *fleet) stop() {
	for _, in := range f.inputs {
		_ = in.Close()
	}
	for _, c := range f.children {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	}
	_ = f.read.Wait()
}

// idle says what signetd costs while nothing changes.
func idle(p *plane) {
	const rest = 10 * time.Second
	time.Sleep(3 * time.Second) // what the start of the streams left to do
	cpu := p.cpu()
	time.Sleep(rest)
	fmt.Printf("idle      %.1f %% of a CPU, %d MB resident; ready %.1f s after its start\n", 100*(p.cpu()-cpu)/rest.Seconds(), p.memory(), p.took.Seconds())
}

// measure changes endpoints and returns the 99th percentile of the time to the streams, in ms.
func measure(ctx context.Context, w *world, p *plane, f *fleet) (p99 float64, err error) {
	fmt.Printf("mesh      %d Services, %d endpoints, %d streams, each of %d hosts\n", w.size.services, w.size.endpoints, w.size.streams, w.size.hosts)
	idle(p)
	f.take()
	cpu, pushed := p.cpu(), p.bytes()
	began := time.Now()
	told := watched{at: map[string]time.Time{}}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watching errgroup.Group
	watching.Go(func() error { return w.watch(ctx, told.note) })
	var took, watch []float64
	received, expected, others := 0, 0, 0
	for i := range w.size.changes {
		service := (i * 7919) % w.size.services
		users := w.users(service)
		if len(users) == 0 {
			continue
		}
		marker := "10.99." + strconv.Itoa(i/250) + "." + strconv.Itoa(1+i%250)
		at, err := w.change(ctx, service, marker)
		if err != nil {
			return 0, err
		}
		expected += len(users)
		_ = f.until(ctx, 5*time.Second, func(all []event) bool { return count(all, marker) >= len(users) })
		time.Sleep(50 * time.Millisecond)
		for _, e := range f.take() {
			switch {
			case e.Marker == marker && slices.Contains(users, e.Client):
				received++
				took = append(took, milliseconds(at, e.At))
				watch = append(watch, milliseconds(at, told.when(namespaceOf(service)+"/"+nameOf(service)+"-1")))
				if last := len(took) - 1; took[last] > goalLatency {
					say("change %d took %.0f ms, of which the API server's watch %.0f ms", i, took[last], watch[last])
				}
			default:
				others++
			}
		}
	}
	if len(took) == 0 {
		return 0, errors.New("no change arrived anywhere")
	}
	slices.Sort(took)
	slices.Sort(watch)
	elapsed := time.Since(began)
	stop()
	if err := watching.Wait(); err != nil && ctx.Err() == nil {
		return 0, err
	}
	fmt.Printf("changes   %d, of which %d of %d deliveries arrived, and %d at streams that don't use them\n", w.size.changes, received, expected, others)
	fmt.Printf("latency   p50 %.0f ms, p99 %.0f ms, max %.0f ms (from the API server's answer to the change until the sidecar has applied it)\n",
		took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	fmt.Printf("watch     p50 %.0f ms, p99 %.0f ms, max %.0f ms of it until another client of the API server was told of the change\n",
		watch[len(watch)/2], watch[len(watch)*99/100], watch[len(watch)-1])
	fmt.Printf("pushed    %.0f bytes a change, %.0f a delivery\n", (p.bytes()-pushed)/float64(w.size.changes), (p.bytes()-pushed)/float64(max(received, 1)))
	fmt.Printf("signetd   %.1f s of CPU in %.1f s (%.1f ms a change), %d MB resident\n", p.cpu()-cpu, elapsed.Seconds(), 1000*(p.cpu()-cpu)/float64(w.size.changes), p.memory())
	if received != expected || others > 0 {
		return 0, fmt.Errorf("a change went astray: %d of %d deliveries, %d at others", received, expected, others)
	}
	return took[len(took)*99/100], nil
}

// watched are the times at which the API server told of EndpointSlices.
type watched struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

func (w *watched) note(slice string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[slice] = at
}

func (w *watched) when(slice string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[slice]
}

func milliseconds(from, to time.Time) float64 {
	return max(0, float64(to.Sub(from).Microseconds())/1000)
}

func count(all []event, marker string) int {
	n := 0
	for _, e := range all {
		if e.Marker == marker {
			n++
		}
	}
	return n
}
