package decisionlog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

const menu = `package menu

decision := {"allowed": input.attributes.request.http.method == "GET", "secret": {"k": [1, 2, 3]}, "headers": {"x-a": "b"}}
`

const logMask = `package system.log

mask contains "/input/attributes/request/http/headers/x-key"
mask contains "/input/attributes/nothing"
mask contains "/input/list/1" if input.path == "menu/decision"
mask contains {"op": "upsert", "path": "/input/attributes/request/http/headers/x-name", "value": "**"} if input.input.attributes.request.http.headers["x-name"]
mask contains {"op": "upsert", "path": "/input/made/here", "value": [1, {"a": 2}]}
mask contains {"op": "remove", "path": "/result/secret/k/0"} if input.result.allowed == true
mask contains "/input" if input.result.allowed == false
`

// realOPA runs opa as a server that reports its decisions to logs; its address.
func realOPA(t *testing.T, logs string) string {
	t.Helper()
	where, err := exec.CommandContext(t.Context(), "go", "-C", "../../../test/opa", "tool", "-n", "opa").Output()
	if err != nil {
		t.Fatalf("building opa: %v", err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`{"services": {"c": {"url": %q}}, "labels": {"app": "menu"}, "decision_logs": {"service": "c", "partition_name": "lab",
		"reporting": {"min_delay_seconds": 0, "max_delay_seconds": 1}}}`, logs)
	for name, content := range map[string]string{"config.json": config, "menu.rego": menu, "mask.rego": logMask} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), strings.TrimSpace(string(where)), "run", "--server", "--disable-telemetry", "--addr", address,
		"--config-file", filepath.Join(dir, "config.json"), filepath.Join(dir, "menu.rego"), filepath.Join(dir, "mask.rego"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, "opa answers", func() bool {
		resp, err := client.Get("http://" + address + "/health")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	return address
}

func ask(t *testing.T, address, input string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post("http://"+address+"/v1/data/menu/decision", "application/json", reader(`{"input": `+input+`}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("opa answered %s: %s", resp.Status, body)
	}
}

// evaluate is what authz/rego does for a query.
func evaluate(t *testing.T, query string) func(context.Context, ast.Value) (any, error) {
	t.Helper()
	prepared, err := rego.New(rego.Query(query), rego.Module("menu.rego", menu), rego.Module("mask.rego", logMask)).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, input ast.Value) (any, error) {
		rs, err := prepared.Eval(ctx, rego.EvalParsedInput(input))
		if err != nil || len(rs) == 0 {
			return nil, err
		}
		return rs[0].Expressions[0].Value, nil
	}
}

// What we report of a decision is what the real opa reports of it, masks included.
func TestLikeOPA(t *testing.T) {
	theirs, ours := &collector{}, &collector{}
	theirServer, ourServer := httptest.NewServer(theirs), httptest.NewServer(ours)
	defer theirServer.Close()
	defer ourServer.Close()
	inputs := []string{
		`{"attributes": {"request": {"http": {"method": "GET", "path": "/menu", "headers": {"x-key": "k", "x-name": "n", "x-tier": "free"}}}}, "list": [1, "two", null]}`,
		`{"attributes": {"request": {"http": {"method": "GET", "path": "/<&>", "headers": {}}}}, "n": 12345678901234567890, "f": 1.50}`,
		`{"attributes": {"request": {"http": {"method": "POST"}}}}`,
		`{"attributes": {}}`, // undefined
	}
	address := realOPA(t, theirServer.URL)
	cfg := config(ourServer.URL)
	cfg.Spec.Partition, cfg.Mask, cfg.Labels["app"] = "lab", evaluate(t, "data.system.log.mask"), "menu"
	r := reporter(t, cfg)
	stop := start(t, r)
	decide := evaluate(t, "data.menu.decision")
	for _, input := range inputs {
		ask(t, address, input)
		e := event(t, "", input)
		e.Result = nil
		result, err := decide(t.Context(), e.Input)
		if err != nil {
			t.Fatal(err)
		}
		if result != nil {
			if e.Result, err = ast.InterfaceToValue(result); err != nil {
				t.Fatal(err)
			}
		}
		e.RequestedBy = "127.0.0.1:1"
		r.Log(e)
	}
	eventually(t, "their events", func() bool { return len(theirs.got()) == len(inputs) })
	eventually(t, "our events", func() bool { return len(ours.got()) == len(inputs) })
	stop()
	if theirs.paths[0] != ours.paths[0] {
		t.Errorf("they post to %q, we to %q", theirs.paths[0], ours.paths[0])
	}
	for i := range inputs {
		their, our := theirs.got()[i], ours.got()[i]
		for _, e := range []map[string]any{their, our} {
			for _, field := range []string{"decision_id", "timestamp", "requested_by"} {
				if s, ok := e[field].(string); !ok || s == "" {
					t.Errorf("%s is %v", field, e[field])
				}
			}
			at, err := time.Parse(time.RFC3339Nano, e["timestamp"].(string))
			if err != nil || time.Since(at) > time.Minute || !strings.HasSuffix(e["timestamp"].(string), "Z") {
				t.Errorf("timestamp is %v", e["timestamp"])
			}
			if len(e["decision_id"].(string)) != 36 {
				t.Errorf("decision_id is %v", e["decision_id"])
			}
		}
		if a, b := slices.Sorted(maps.Keys(their["labels"].(map[string]any))), slices.Sorted(maps.Keys(our["labels"].(map[string]any))); !slices.Equal(a, b) {
			t.Errorf("their labels are %q, ours %q", a, b)
		}
		for _, own := range []string{"decision_id", "timestamp", "requested_by", "labels", "metrics", "req_id"} {
			delete(their, own)
			delete(our, own)
		}
		a, b := indented(t, their), indented(t, our)
		if a != b {
			t.Errorf("of %s they report\n%s\nwe\n%s", inputs[i], a, b)
		}
	}
}

func indented(t *testing.T, x any) string {
	t.Helper()
	out, err := json.MarshalIndent(x, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
