package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// kubectl runs kubectl as the cluster's administrator and gives its output.
func kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := tryKubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryKubectl(stdin string, args ...string) (string, error) {
	c := exec.Command("kubectl", args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// apply applies YAML.
func apply(t *testing.T, yaml string) {
	t.Helper()
	kubectl(t, yaml, "apply", "-f", "-")
}

// namespace makes a namespace that ends with the test.
func namespace(t *testing.T, name string, labels ...string) {
	t.Helper()
	kubectl(t, "", "create", "namespace", name)
	t.Cleanup(func() { _, _ = tryKubectl("", "delete", "namespace", name, "--wait=false") })
	for _, l := range labels {
		kubectl(t, "", "label", "namespace", name, l)
	}
	eventually(t, "default service account of "+name, func() error {
		_, err := tryKubectl("", "-n", name, "get", "serviceaccount", "default")
		return err
	})
}

// eventually tries until there is no error, for a minute.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// rollout waits for deployments.
func rollout(t *testing.T, ns string, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := tryKubectl("", "-n", ns, "rollout", "status", "deployment/"+n, "--timeout=90s"); err != nil {
			t.Fatalf("%v\n%s", err, describe(ns))
		}
	}
}

// describe is what is known of a namespace's pods when something went wrong.
func describe(ns string) string {
	pods, _ := tryKubectl("", "-n", ns, "describe", "pods")
	logs, _ := tryKubectl("", "-n", ns, "logs", "--all-containers", "--prefix", "--tail=15", "-l", "app")
	events, _ := tryKubectl("", "-n", ns, "get", "events")
	return pods + logs + events
}

// result is a line of the application's `call`.
type result struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
	Error  string `json:"error"`
}

// reply is the body of the application's answer.
type reply struct {
	Name, Version, Pod, Remote, Host, Path string
	Header                                 map[string][]string
}

// call makes one request from a pod or deployment (deploy/NAME) and gives the answer.
func call(t *testing.T, ns, from string, args ...string) result {
	t.Helper()
	r, err := tryCall(ns, from, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryCall(ns, from string, args ...string) (result, error) {
	out, err := tryKubectl("", append([]string{"-n", ns, "exec", from, "-c", "app", "--", "/app", "call"}, args...)...)
	var r result
	if jsonErr := json.Unmarshal([]byte(strings.TrimSpace(out)), &r); jsonErr != nil {
		return r, fmt.Errorf("%v: %w", jsonErr, err)
	}
	return r, nil
}

func (r result) reply(t *testing.T) reply {
	t.Helper()
	var out reply
	if err := json.Unmarshal([]byte(r.Body), &out); err != nil {
		t.Fatalf("answer %+v: %v", r, err)
	}
	return out
}
