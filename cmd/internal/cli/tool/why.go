package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/cmd/internal/up"
)

// exitDenied is what `why` ends with for a request that is denied, or that does not reach the server.
const exitDenied = 3

const whyHelp = `Say what becomes of a request and why: the route that the caller's sidecar chooses, then the judgement of
the server's: the canonical path, the token, each policy with the rule that matched, or the first clause
that failed and the value it saw, and the limits that would apply. It is the code of the data path that
judges, not a second implementation. The request is not sent.

With -f DIR the files alone are asked: nothing needs to run, and nothing is reached for, so that external
authorizers are not asked and keys of a jwksUri are not fetched. Without it the running sidecars are
asked, by their admin sockets: those that 'signet up' or signet-proxy of this user and trust domain have,
or --admin; or those of a cluster's pods.

--from is NAMESPACE/WORKLOAD, a SPIFFE ID, or plaintext for a caller without a certificate. --to without
a port means the workload's only HTTP port. --host is the service that the port serves where it is not
given. In a cluster a workload is a pod, or a Deployment, StatefulSet, DaemonSet, Job or CronJob, or else
a Service: one of its ready pods is asked, and the answer says which. The namespace may be left out where --namespace
names it. A caller without a sidecar calls in plaintext.

` + remoteHelp + `

Exit codes: 0 the request is allowed, 3 it is denied or does not reach the server (no route of the
caller's sidecar leads there, or a route answers by itself), 2 a mistake in flags, files or objects, 1 the
server's sidecar can't be asked.`

// where says whom to ask: a directory, or sidecars.
type where struct {
	dir, trustDomain, state string
	admin                   []string
	remote                  remote
}

// addTrustDomain adds the flag that all of these commands have.
func addTrustDomain(c *cobra.Command, into *string) {
	c.Flags().StringVar(into, "trust-domain", "cluster.local", "trust domain of all SPIFFE IDs")
}

func checkTrustDomain(name string) error {
	_, err := cli.StateDir("/", name) // judges the name
	return err
}

// loadDir reads a directory that must stand.
func loadDir(dir, trustDomain string) (*explain.Mesh, error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	m, err := explain.Load(dir, trustDomain)
	if err != nil {
		return nil, cli.Mistake(err)
	}
	return m, nil
}

// sidecars adds the flags that find running sidecars.
func (w *where) sidecars(c *cobra.Command) {
	addTrustDomain(c, &w.trustDomain)
	f := c.Flags()
	f.StringVar(&w.state, "state", "", "state directory that 'signet up' was given (default $XDG_STATE_HOME/signet/TRUST-DOMAIN)")
	f.StringArrayVar(&w.admin, "admin", nil, "admin socket to ask instead of those found; may be repeated")
}

// connect finds the sidecars that run.
func (w *where) connect(c *cobra.Command) (*explain.Live, error) {
	sockets := w.admin
	if len(sockets) == 0 {
		dirs, err := w.runDirs()
		if err != nil {
			return nil, err
		}
		if sockets = explain.Sockets(dirs...); len(sockets) == 0 {
			return nil, noCluster(fmt.Errorf("finding running sidecars: no admin socket below %s\ngive --admin SOCKET, or -f DIR to ask the files",
				strings.Join(dirs, " or ")))
		}
	}
	live, err := explain.Connect(c.Context(), sockets)
	if err != nil {
		return nil, fmt.Errorf("asking running sidecars: %w", err)
	}
	return live, nil
}

// runDirs are where `signet up` and signet-proxy put their sockets.
func (w *where) runDirs() ([]string, error) {
	state, err := cli.StateDir(w.state, w.trustDomain)
	if err != nil {
		return nil, err
	}
	dirs := []string{filepath.Join(state, "run")}
	if short := up.ShortRunDir(state); short != "" {
		dirs = append(dirs, short)
	}
	if w.state != "" {
		return dirs, nil
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		dirs = append(dirs, filepath.Join(run, "signet"))
	}
	if home, err := cli.StateHome(); err == nil {
		dirs = append(dirs, filepath.Join(home, "sidecars"))
	}
	return dirs, nil
}

func newWhy() *cobra.Command {
	var w where
	var q explain.Question
	var headers []string
	var token, body, output string
	c := &cobra.Command{
		Use:   "why --from WHO --to NAMESPACE/WORKLOAD[:PORT]",
		Short: "Say whether a request is allowed, and why",
		Long:  whyHelp,
		Example: `  signet why -f deploy/demo --from shop/reports --to bank/ledger --path /accounts/7
  signet why --from plaintext --to shop/catalog-v1:8080 -H 'x-tester: yes' -o json
  signet why --context prod --from shop/cart --to shop/pay:8080 --method POST`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := completeQuestion(&q, headers, token, body); err != nil {
				return cli.Mistake(fmt.Errorf("%w\nSee 'signet why --help'", err))
			}
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			a, err := w.why(c, &q)
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(c.OutOrStdout(), a)
			} else {
				err = a.WriteText(c.OutOrStdout())
			}
			switch {
			case err != nil:
				return err
			case a.Decision == explain.Unknown:
				return errors.New("the server's sidecar could not be asked")
			case !a.Allowed() || !a.Reached():
				return cli.Exit(exitDenied)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&w.dir, "file", "f", "", "directory of objects to ask instead of running sidecars")
	f.StringVar(&q.From, "from", "", "caller: NAMESPACE/WORKLOAD, spiffe://... or plaintext (required)")
	f.StringVar(&q.To, "to", "", "server: NAMESPACE/WORKLOAD[:PORT] (required)")
	f.StringVar(&q.Host, "host", "", "host of the request (default: the service that the port serves)")
	f.StringVar(&q.Method, "method", "GET", "method of the request")
	f.StringVar(&q.Path, "path", "/", "path of the request, with its query")
	f.StringArrayVarP(&headers, "header", "H", nil, "header field NAME:VALUE of the request; may be repeated")
	f.StringVar(&token, "token", "", "file with a JSON Web Token, sent as authorization: Bearer")
	f.StringVar(&body, "body", "", "file with the body of the request")
	f.StringVar(&q.SourceIP, "source-ip", "", "address of the caller (default: the workload's)")
	f.StringVarP(&output, "output", "o", "text", "what to print: text or json")
	w.sidecars(c)
	w.remote.add(c, "n", "namespace of --from and --to where they name none")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{explain.Plaintext}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("method", cobra.FixedCompletions([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.MarkFlagDirname("file")
	return c
}

func (w *where) why(c *cobra.Command, q *explain.Question) (*explain.Answer, error) {
	if w.dir != "" {
		m, err := loadDir(w.dir, w.trustDomain)
		if err != nil {
			return nil, err
		}
		a, err := m.Why(c.Context(), q)
		if err != nil {
			return nil, cli.Mistake(err)
		}
		return a, nil
	}
	k, err := w.cluster(c)
	if err != nil {
		return nil, err
	}
	if k != nil {
		return k.why(c.Context(), q)
	}
	live, err := w.connect(c)
	if err != nil {
		return nil, err
	}
	defer live.Close()
	a, err := live.Why(c.Context(), q)
	if err != nil {
		return nil, cli.Mistake(err)
	}
	return a, nil
}

// completeQuestion reads what flags name.
func completeQuestion(q *explain.Question, headers []string, token, body string) error {
	if q.From == "" || q.To == "" {
		return errors.New("--from and --to must be given")
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return fmt.Errorf("--header %q: want NAME:VALUE", h)
		}
		q.Headers = append(q.Headers, explain.Header{Name: name, Value: strings.TrimSpace(value)})
	}
	if token != "" {
		text, err := readSmall("--token", token, explain.MaxToken)
		if err != nil {
			return err
		}
		q.Headers = append(q.Headers, explain.Header{Name: "authorization", Value: "Bearer " + strings.TrimSpace(string(text))})
	}
	if body != "" {
		var err error
		if q.Body, err = readSmall("--body", body, explain.MaxBody); err != nil {
			return err
		}
	}
	return nil
}

func readSmall(flag, path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return data, nil
}

func checkOutput(output string, words ...string) error {
	for _, w := range words {
		if output == w {
			return nil
		}
	}
	return cli.Mistake(fmt.Errorf("--output %q: want %s", output, strings.Join(words, " or ")))
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeLine writes JSON on one line.
func writeLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
