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
	"strings"
	"time"
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

// Live asks running sidecars.
type Live struct {
	sockets []string
	clients map[string]*http.Client // by socket
	byName  map[string]string       // socket by NAMESPACE/NAME
	failed  []string
}

// Connect asks each socket whose it is. Those that don't answer are left out; an error says that none does.
func Connect(ctx context.Context, sockets []string) (*Live, error) {
	l := &Live{clients: map[string]*http.Client{}, byName: map[string]string{}}
	for _, s := range slices.Compact(slices.Sorted(slices.Values(sockets))) {
		l.clients[s] = client(s)
		name, err := l.whose(ctx, s)
		if err != nil {
			l.failed = append(l.failed, fmt.Sprintf("%s: %v", s, err))
			continue
		}
		l.byName[name] = s
		l.sockets = append(l.sockets, s)
	}
	if len(l.sockets) == 0 {
		return nil, errors.New(cmp.Or(strings.Join(l.failed, "\n  "), "there is no admin socket"))
	}
	return l, nil
}

// Close ends idle connections.
func (l *Live) Close() {
	for _, c := range l.clients {
		c.CloseIdleConnections()
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

func (l *Live) whose(ctx context.Context, socket string) (string, error) {
	var status struct {
		Workload struct{ Name, Namespace string }
	}
	if err := l.call(ctx, socket, http.MethodGet, "/status", nil, &status); err != nil {
		return "", err
	}
	if status.Workload.Name == "" {
		return "", errors.New("it is not ready yet")
	}
	return status.Workload.Namespace + "/" + status.Workload.Name, nil
}

// call does one exchange with a socket.
func (l *Live) call(ctx context.Context, socket, method, path string, ask, answer any) error {
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
	resp, err := l.clients[socket].Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return err
	case len(data) > maxReply:
		return fmt.Errorf("%s: the answer has more than %d bytes", socket, maxReply)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %s: %.200s", path, resp.Status, bytes.TrimSpace(data))
	}
	return json.Unmarshal(data, answer)
}

// Why answers a question by the sidecars of caller and server. What no sidecar here can say is left out, with a note.
func (l *Live) Why(ctx context.Context, q *Question) (*Answer, error) {
	return assemble(ctx, q, func(ctx context.Context, workload string, q *Question) (Reply, error) {
		var out Reply
		socket := l.byName[workload]
		if socket == "" {
			return out, fmt.Errorf("%w: no admin socket here is %s's", errAway, workload)
		}
		return out, l.call(ctx, socket, http.MethodPost, WhyPath, q, &out)
	})
}

// Denials are the last denials of all sidecars, most first, of equals the latest first. away counts the sidecars that did
// not answer.
func (l *Live) Denials(ctx context.Context) (all []Denial, away int) {
	for _, s := range l.sockets {
		var some []Denial
		if err := l.call(ctx, s, http.MethodGet, DenialsPath, nil, &some); err != nil {
			away++
			continue
		}
		all = append(all, some...)
	}
	slices.SortStableFunc(all, func(a, b Denial) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last), strings.Compare(a.From+a.To+a.By, b.From+b.To+b.By))
	})
	return all, away
}
