package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestProcfile changes a Procfile while it runs.
func TestProcfile(t *testing.T) {
	t.Parallel()
	ip := addr()
	crash := "crash: echo one; echo two >&2; exit 3\n"
	keep := "keep: echo keep $$; exec sleep 8881\n"
	dir := directory(t, map[string]string{"mesh.yaml": fleet(ip, 1), "Procfile": crash + keep + "shop.late: env | grep ^http_proxy; exec sleep 8882\n"})
	c := mark(t, "signet", "up", "-o", "json", "--state", shortDir(t), "--control-address", "127.0.0.1:0", dir)
	c.ready()
	says := func(within time.Duration, want string) {
		t.Helper()
		eventually(t, within, func() string {
			if strings.Contains(c.err.String(), want) {
				return ""
			}
			return fmt.Sprintf("log lacks %q\n%s", want, c.err.String())
		})
	}
	lacks := func(what string) {
		t.Helper()
		eventually(t, 1500*time.Millisecond, func() string {
			for _, cmdline := range c.processes() {
				if strings.HasPrefix(cmdline, what) {
					return what + " still runs"
				}
			}
			return ""
		})
	}
	procfile := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "Procfile"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says(5*time.Second, `program=crash state="exit status 3" code=3 restart_in=200ms last_lines="one / two"`)
	says(5*time.Second, `code=3 restart_in=400ms`)
	says(5*time.Second, "crash | one\n")
	says(5*time.Second, `named after no WorkloadEntry with a serviceAccount; it starts when there is one" workload=signet-system.up program=shop.late`)
	keeper := c.running("sleep 8881")

	// A workload that comes later takes its program with it, and one whose proxy moves.
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(objects(fleet(ip, 1), entry("shop/late", ip+"7", "late", "", "")))
	says(3*time.Second, "shop.late | http_proxy=http://"+ip+"7:15001\n")
	write(objects(fleet(ip, 1), entry("shop/late", ip+"8", "late", "", "")))
	says(3*time.Second, "shop.late | http_proxy=http://"+ip+"8:15001\n")

	procfile(keep + "new: exec sleep 8883\n")
	c.running("sleep 8883")
	lacks("sleep 8882")
	procfile(keep + "new: exec sleep 8884\n")
	c.running("sleep 8884")
	lacks("sleep 8883")

	// What is broken or empty changes nothing, and a file that is written in pieces is not read in between.
	procfile(keep + "not an entry\n")
	says(2*time.Second, filepath.Join(dir, "Procfile")+`:2: want`)
	procfile("")
	time.Sleep(600 * time.Millisecond)
	c.running("sleep 8884")
	for i := range 4 {
		procfile((keep + "piece: touch wrong\n")[:len(keep)+5*i])
		time.Sleep(100 * time.Millisecond)
	}
	procfile(keep + "piece: exec sleep 8885\n")
	c.running("sleep 8885")
	lacks("sleep 8884")
	if now := c.running("sleep 8881"); now != keeper {
		t.Errorf("an entry that did not change was restarted: process %d, now %d", keeper, now)
	}
	killedKeeper(t, c, procfile)
	if err := os.Remove(filepath.Join(dir, "Procfile")); err != nil {
		t.Fatal(err)
	}
	lacks("sleep 8887")
	lacks("sleep 8881")
	if wrong := filepath.Join(dir, "wrong"); fileExists(wrong) {
		t.Error("half an entry was run")
	}
	if out := c.out.String(); strings.Count(out, "\n") != 1 {
		t.Errorf("standard output: %q", out)
	}
	_ = c.Process.Signal(syscall.SIGINT)
	c.gone(10 * time.Second)
}

// killedKeeper kills the process that looks after a program: nothing of the program is left beside the new one.
func killedKeeper(t *testing.T, c *marked, procfile func(string)) {
	t.Helper()
	procfile("tree: setsid sh -c 'sleep 8886 & wait' & exec sleep 8887\n")
	c.running("sleep 8886")
	first := c.running("sleep 8887")
	if err := syscall.Kill(c.running("signet role-program -- setsid"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() string {
		trees := 0
		for pid, cmdline := range c.processes() {
			if strings.HasPrefix(cmdline, "sleep 8886") {
				trees++
			}
			if pid == first {
				return "the old one is there"
			}
		}
		if trees != 1 {
			return fmt.Sprintf("%d of them: %v", trees, c.processes())
		}
		return ""
	})
}

// TestAddresses has workloads whose addresses are not there or not free.
func TestAddresses(t *testing.T) {
	t.Parallel()
	ip := addr()
	taken, err := net.Listen("tcp", ip+"2:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := echo(t, nil)
	m := &running{t: t, Dir: directory(t, map[string]string{"mesh.yaml": shop(ip, port), "absent.yaml": entry("shop/absent", "192.0.2.77", "absent", "", "")}),
		State: shortDir(t), end: make(chan error, 1)}
	t.Cleanup(m.stop)
	freed := make(chan bool)
	go func() {
		defer close(freed)
		eventually(t, 20*time.Second, func() string {
			if strings.Contains(m.Log(), "workload shop/pay: opening listener "+ip+"2:8080: another process has the port") {
				return ""
			}
			return "no word of the taken port\n" + m.Log()
		})
		taken.Close()
	}()
	m.start() // it waits for pay, which recovers when the port is free
	<-freed
	if got := code(t, "-x", "http://"+m.workload("shop/cart").Outbound, "http://pay.shop/"); got != "200" {
		t.Errorf("got %s\n%s", got, m.Log())
	}
	want := filepath.Join(m.Dir, "absent.yaml") + ":5:21: WorkloadEntry shop/absent: spec.address: this machine does not have"
	if !strings.Contains(m.Log(), filepath.Join(m.Dir, "absent.yaml")) || !strings.Contains(m.Log(), "WorkloadEntry shop/absent: spec.address: this machine does not have") {
		t.Errorf("log lacks %q\n%s", want, m.Log())
	}
	if len(m.Ready.Workloads) != 3 {
		t.Errorf("%d workloads are ready, want the three that can be", len(m.Ready.Workloads))
	}

	// A second workload with an address that is in use has no sidecar; it gets one when the first is gone.
	m.write("twin.yaml", entry("shop/twin", ip+"3", "twin", "", ""))
	eventually(t, 3*time.Second, func() string {
		if strings.Contains(m.Log(), "WorkloadEntry shop/twin: spec.address") && strings.Contains(m.Log(), "it has no sidecar") {
			return ""
		}
		return "no word of the shared address\n" + m.Log()
	})
	m.write("mesh.yaml", strings.Replace(shop(ip, port), "address: "+ip+"3", "address: "+ip+"4", 1))
	m.logged(t, `certificate in use.*shop\.twin`)
}
