// Command app is every container of the cluster tests: an application that knows nothing of the mesh, and the clients that call
// it. One static binary.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) < 2 {
		os.Args = append(os.Args, "pause")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	args := os.Args[2:]
	var err error
	switch os.Args[1] {
	case "pause":
		<-ctx.Done()
	case "sleep":
		var d time.Duration
		if d, err = time.ParseDuration(args[0]); err == nil {
			select {
			case <-time.After(d):
			case <-ctx.Done():
			}
		}
	case "serve":
		err = serve(ctx, args)
	case "call":
		err = call(ctx, args)
	case "load":
		err = load(ctx, args)
	case "tcp":
		err = tcp(args)
	case "health":
		err = askHealth(ctx, args[0])
	default:
		err = fmt.Errorf("unknown role %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// answer is what the server says of a request.
type answer struct {
	Name    string      `json:"name"`
	Version string      `json:"version"`
	Pod     string      `json:"pod"`
	Remote  string      `json:"remote"`
	Host    string      `json:"host"`
	Method  string      `json:"method"`
	Path    string      `json:"path"`
	Header  http.Header `json:"header"`
	Body    int64       `json:"body"`
}

// serve is an application: HTTP, and if asked an echo that waits for its client and one that speaks first.
func serve(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("serve", flag.ExitOnError)
	addr := f.String("http", ":8080", "address of HTTP; empty for none")
	echo := f.String("echo", "", "address of a TCP echo")
	rpc := f.String("grpc", "", "address of a gRPC health service, which /fail makes NOT_SERVING")
	greet := f.String("greet", "", "address of a server that speaks first")
	name, version := f.String("name", "app", "what it is called"), f.String("version", "v1", "its version")
	linger := f.Duration("linger", 0, "how long new requests are still served after SIGTERM")
	late := f.Duration("late", 0, "how long it takes to start")
	bye := f.String("bye", "", "URL called when it ends")
	_ = f.Parse(args)
	time.Sleep(*late)
	pod, _ := os.Hostname()
	var failing atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if d, err := time.ParseDuration(r.URL.Query().Get("sleep")); err == nil {
			time.Sleep(d)
		}
		w.Header().Set("content-type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{*name, *version, pod, r.RemoteAddr, r.Host, r.Method, r.URL.Path, r.Header, n})
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if failing.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	healthy := health.NewServer()
	mux.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) { failing.Store(true); healthy.Shutdown() })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "# TYPE app_answers counter\napp_answers{name=%q} 1\n", *name)
	})
	if *echo != "" {
		go listen(*echo, func(c net.Conn) { _, _ = io.Copy(c, c) })
	}
	if *rpc != "" {
		ln, err := net.Listen("tcp", *rpc)
		if err != nil {
			return err
		}
		srv := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(srv, healthy)
		go func() { _ = srv.Serve(ln) }()
	}
	if *greet != "" {
		go listen(*greet, func(c net.Conn) { fmt.Fprintf(c, "hello from %s\n", *name); _, _ = io.Copy(c, c) })
	}
	srv := &http.Server{Addr: *addr, Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		time.Sleep(*linger)
		if *bye != "" {
			fmt.Println(get(http.DefaultClient, context.Background(), "GET", *bye, nil, ""))
		}
		_ = srv.Shutdown(context.Background())
	}()
	if *addr == "" {
		<-done
		return nil
	}
	fmt.Println("serving", *addr)
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	<-done
	return nil
}

func listen(addr string, serve func(net.Conn)) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); serve(c) }()
	}
}

// outcome is one call's.
type outcome struct {
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"`
	Error  string `json:"error,omitempty"`
}

func get(c *http.Client, ctx context.Context, method, url string, header http.Header, body string) outcome {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return outcome{Error: err.Error()}
	}
	for k, v := range header {
		if r.Header[k] = v; strings.EqualFold(k, "host") {
			r.Host = v[0]
		}
	}
	resp, err := c.Do(r)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return outcome{Status: resp.StatusCode, Error: err.Error()}
	}
	return outcome{Status: resp.StatusCode, Body: string(b)}
}

// call makes requests one after another and prints a line of JSON for each.
func call(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("call", flag.ExitOnError)
	header := http.Header{}
	f.Func("H", "a header, NAME: VALUE", func(s string) error {
		k, v, _ := strings.Cut(s, ":")
		header.Add(k, strings.TrimSpace(v))
		return nil
	})
	method, body := f.String("X", "GET", "method"), f.String("d", "", "body")
	n, timeout := f.Int("n", 1, "how many"), f.Duration("timeout", 10*time.Second, "for each")
	stop := f.Int("stop", 0, "end at the first answer with this status; wait 20 ms between calls")
	until := f.Duration("until", 0, "try until it is answered with 200, for so long")
	_ = f.Parse(args)
	c := &http.Client{Timeout: *timeout}
	enc := json.NewEncoder(os.Stdout)
	ok := true
	for end := time.Now().Add(*until); *n > 0; {
		o := get(c, ctx, *method, f.Arg(0), header, *body)
		if o.Status != 200 && time.Now().Before(end) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if *stop != 0 {
			if o.Status == *stop {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
			continue
		}
		_ = enc.Encode(o)
		ok = ok && o.Status == 200
		*n--
	}
	if !ok {
		os.Exit(3)
	}
	return nil
}

// load calls at a fixed rate, whatever the answers do (open loop), until it is told to end.
func load(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	rate, d := f.Int("rate", 50, "requests a second"), f.Duration("for", time.Hour, "how long")
	method := f.String("X", "GET", "method")
	out := f.String("out", "", "file that takes the report, rewritten each second; default stdout at the end")
	_ = f.Parse(args)
	c := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	r := &report{Codes: map[string]int{}}
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	end := time.After(*d)
	var wg sync.WaitGroup
	last := time.Now()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			end = nil
		case <-end:
			end = nil
		case <-tick.C:
			url := f.Arg(i % f.NArg())
			wg.Go(func() {
				start := time.Now()
				o := get(c, context.Background(), *method, url, nil, "")
				r.add(o, time.Since(start))
			})
			if *out != "" && time.Since(last) > time.Second {
				last = time.Now()
				_ = os.WriteFile(*out, r.json(), 0o644)
			}
			continue
		}
		break
	}
	wg.Wait()
	if *out != "" {
		return os.WriteFile(*out, r.json(), 0o644)
	}
	_, err := os.Stdout.Write(append(r.json(), '\n'))
	return err
}

type report struct {
	mu     sync.Mutex
	Sent   int            `json:"sent"`
	Failed int            `json:"failed"`
	Codes  map[string]int `json:"codes"`
	Errors []string       `json:"errors"`
	P50    float64        `json:"p50ms"`
	P99    float64        `json:"p99ms"`
	Max    float64        `json:"maxms"`
	took   []float64
}

func (r *report) add(o outcome, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Sent++
	r.Codes[fmt.Sprint(o.Status)]++
	r.took = append(r.took, float64(d.Microseconds())/1000)
	if o.Status != 200 || o.Error != "" {
		r.Failed++
		if len(r.Errors) < 20 {
			r.Errors = append(r.Errors, fmt.Sprintf("%s %d %s %.200s", time.Now().UTC().Format("15:04:05.000"), o.Status, o.Error, o.Body))
		}
	}
}

func (r *report) json() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.took); n > 0 {
		t := append([]float64{}, r.took...)
		sort.Float64s(t)
		r.P50, r.P99, r.Max = t[n/2], t[n*99/100], t[n-1]
	}
	b, _ := json.Marshal(r)
	return b
}

// tcp sends a line, or nothing to a server that speaks first, and prints the line that comes back.
func tcp(args []string) error {
	c, err := net.DialTimeout("tcp", args[0], 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if len(args) > 1 {
		fmt.Fprintln(c, args[1])
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	return err
}

// askHealth prints what the gRPC health service at an address says of the whole server.
func askHealth(ctx context.Context, addr string) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		fmt.Println(answer.Status)
	}
	return err
}
