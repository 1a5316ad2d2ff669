package used

import (
	"fmt"
	"log/slog"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// A round over workloads that did not change formats none of them: it takes no memory for each, and so no time to speak of.
func TestUnchangedWorkloadsAreNotFormatted(t *testing.T) {
	u, err := New(Config{Client: kubernetes.NewForConfigOrDie(&rest.Config{Host: "127.0.0.1:1"}), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		u.Note("shop", fmt.Sprintf("w-%d", i), []string{"a.example.com", "b.example.com"})
	}
	if data := u.take("shop"); len(data) != 500 {
		t.Fatalf("%d workloads to write", len(data))
	}
	u.Note("shop", "w-7", []string{"c.example.com"})
	data := u.take("shop")
	if len(data) != 1 || data["w-7"] == nil {
		t.Fatalf("to write after one changed: %v", data)
	}
	if n := testing.AllocsPerRun(10, func() {
		if data := u.take("shop"); len(data) > 0 {
			panic(data)
		}
	}); n > 20 {
		t.Errorf("%v allocations for 500 workloads that did not change", n)
	}
}
