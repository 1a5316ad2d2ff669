package explain

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// The paths that a sidecar's admin socket answers: a Question for a Reply by POST, and the last denials, a list of Denial.
const (
	WhyPath     = "/why"
	DenialsPath = "/denials"
)

// Limits on what is read of a sidecar.
const (
	askTimeout = 10 * time.Second
	// maxReply is the longest answer in bytes.
	maxReply = 16 << 20
	// maxSockets is how many sockets are looked at.
	maxSockets = 10000
)

// Handler answers POST WhyPath. at gives the workload as it runs, nil while it does not yet.
func Handler(at func() *At) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q Question
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxQuestion))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			http.Error(w, "reading question: "+err.Error(), http.StatusBadRequest)
			return
		}
		a := at()
		if a != nil && a.Demand != nil && q.Host != "" && q.From == nameOf(a.Workload) && !q.Forwarded {
			a = a.Demand(r.Context(), q.Host)
		}
		if a == nil {
			http.Error(w, "the sidecar has no configuration yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("content-type", "application/json")
		_ = json.NewEncoder(w).Encode(a.Reply(r.Context(), &q))
	})
}

// Sockets are the admin sockets below run directories: DIR/SIDECAR/admin.sock.
func Sockets(dirs ...string) []string {
	var out []string
	for _, d := range dirs {
		if found, err := filepath.Glob(filepath.Join(escapeGlob(d), "*", "admin.sock")); err == nil {
			out = append(out, found...)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxSockets)]
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// maxAsked is how many sidecars are asked at once.
const maxAsked = 16

// Target is one sidecar's admin API.
type Target struct {
	// Name is what messages call it: its socket, or its pod.
	Name   string
	Client *http.Client
}

// Live asks running sidecars.
type Live struct {
	targets []*Target          // all that were given, by name
	answer  []*Target          // those that said whose they are
	byName  map[string]*Target // by NAMESPACE/NAME
	ids     map[string]string  // SPIFFE ID by NAMESPACE/NAME
	failed  []string
	bare    map[string]bool // workloads that are known to have no sidecar
	what    string          // what the targets are
}

// Connect asks each socket whose it is. Those that don't answer are left out; an error says that none does.
func Connect(ctx context.Context, sockets []string) (*Live, error) {
	var targets []*Target
	for _, s := range slices.Compact(slices.Sorted(slices.Values(sockets))) {
		targets = append(targets, &Target{s, client(s)})
	}
	return connect(ctx, targets, "admin socket")
}

// ConnectPods is Connect for the sidecars of pods. bare are NAMESPACE/POD of those that are known to have none.
func ConnectPods(ctx context.Context, targets []*Target, bare ...string) (*Live, error) {
	l, err := connect(ctx, targets, "pod")
	if err != nil {
		return nil, err
	}
	for _, b := range bare {
		l.bare[b] = true
	}
	return l, nil
}

func connect(ctx context.Context, targets []*Target, what string) (*Live, error) {
	l := &Live{targets: targets, byName: map[string]*Target{}, ids: map[string]string{}, bare: map[string]bool{}, what: what}
	names, ids, errs := make([]string, len(targets)), make([]string, len(targets)), make([]error, len(targets))
	each(targets, func(i int, t *Target) { names[i], ids[i], errs[i] = t.whose(ctx) })
	for i, t := range targets {
		if errs[i] != nil {
			l.failed = append(l.failed, fmt.Sprintf("%s: %v", t.Name, errs[i]))
			continue
		}
		l.byName[names[i]], l.ids[names[i]] = t, ids[i]
		l.answer = append(l.answer, t)
	}
	if len(l.answer) == 0 {
		l.Close()
		return nil, errors.New(cmp.Or(strings.Join(l.failed, "\n  "), "there is no "+what))
	}
	return l, nil
}

// each does something with every target, some at a time, and returns when all is done.
func each(targets []*Target, do func(i int, t *Target)) {
	var g errgroup.Group
	g.SetLimit(maxAsked)
	for i, t := range targets {
		g.Go(func() error { do(i, t); return nil })
	}
	_ = g.Wait() // none fails
}

// Close ends idle connections.
func (l *Live) Close() {
	for _, t := range l.targets {
		t.Client.CloseIdleConnections()
	}
}

func client(socket string) *http.Client {
	return &http.Client{Timeout: askTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 1,
	}}
}

func (t *Target) whose(ctx context.Context) (name, id string, err error) {
	var status struct {
		Workload struct{ Name, Namespace, SPIFFEID string }
	}
	if err := t.Call(ctx, http.MethodGet, "/status", nil, &status); err != nil {
		return "", "", err
	}
	w := status.Workload
	if w.Name == "" {
		return "", "", errors.New("it is not ready yet")
	}
	return w.Namespace + "/" + w.Name, w.SPIFFEID, nil
}

// Call does one exchange of JSON with a target. ask is nil for none.
func (t *Target) Call(ctx context.Context, method, path string, ask, answer any) error {
	var body io.Reader
	if ask != nil {
		b, err := json.Marshal(ask)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, body)
	if err != nil {
		return err
	}
	resp, err := t.Client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return err
	case len(data) > maxReply:
		return fmt.Errorf("%s: the answer has more than %d bytes", t.Name, maxReply)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %s: %.200s", path, resp.Status, bytes.TrimSpace(data))
	}
	return json.Unmarshal(data, answer)
}

// Why answers a question by the sidecars of caller and server. What no sidecar here can say is left out, with a note.
func (l *Live) Why(ctx context.Context, q *Question) (*Answer, error) {
	var served string // the host that the server's port serves, once it was asked
	return assemble(ctx, q, func(ctx context.Context, workload string, q *Question) (Reply, error) {
		out, err := l.ask(ctx, workload, q)
		if err != nil {
			return out, err
		}
		if out.Server != nil {
			served = out.Server.Service
		}
		unknown := func() bool { return out.Route != nil && out.Route.Outcome == outcomeUnknown && q.Host == "" }
		named := *q
		if unknown() && served != "" {
			// The caller's sidecar may not hold the service, because nothing called it yet: its name makes it ask for it.
			named.Host = served
			if _, err := l.ask(ctx, workload, &named); err != nil {
				return out, err
			}
			if out, err = l.ask(ctx, workload, q); err != nil {
				return out, err
			}
		}
		if _, port, err := splitTo(q.To); unknown() && err == nil && port > 0 && q.ToIP != "" { // no Service leads there: it is called by its address
			named.Host = net.JoinHostPort(q.ToIP, strconv.Itoa(int(port)))
			return l.ask(ctx, workload, &named)
		}
		return out, nil
	})
}

func (l *Live) ask(ctx context.Context, workload string, q *Question) (out Reply, err error) {
	if l.bare[workload] {
		return out, fmt.Errorf("%s %w", workload, errNoSidecar)
	}
	t := l.byName[workload]
	if t == nil {
		return out, fmt.Errorf("%w: no %s here is %s's", errAway, l.what, workload)
	}
	return out, t.Call(ctx, http.MethodPost, WhyPath, l.seen(q, workload), &out)
}

// seen is a question as its server can read it: a server's sidecar need not know the caller's workload, but knows an identity.
func (l *Live) seen(q *Question, asked string) *Question {
	out := *q
	switch {
	case q.From == asked:
	case l.bare[q.From]:
		out.From = Plaintext
	case l.ids[q.From] != "":
		out.From = l.ids[q.From]
	}
	return &out
}

// Denials are the last denials of all sidecars, most first, of equals the latest first. away counts the sidecars that did
// not answer.
func (l *Live) Denials(ctx context.Context) (all []Denial, away int) {
	some, errs := make([][]Denial, len(l.answer)), make([]error, len(l.answer))
	each(l.answer, func(i int, t *Target) { errs[i] = t.Call(ctx, http.MethodGet, DenialsPath, nil, &some[i]) })
	for i, err := range errs {
		if err != nil {
			away++
			continue
		}
		all = append(all, some[i]...)
	}
	slices.SortStableFunc(all, func(a, b Denial) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last), strings.Compare(a.From+a.To+a.By, b.From+b.To+b.By))
	})
	return all, away
}
