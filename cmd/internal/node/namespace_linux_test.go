package node

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/proxy/capture"
)

// roleVariable names, in its environment, what this test's own executable plays in a network namespace, as which user.
const roleVariable = "SIGNET_TEST_ROLE"

// play is one role: "install", "sidecar UID ADDRESS", "serve UID NAME PORT" or "dial UID TO".
func play(t *testing.T, words []string) {
	if words[0] == "install" {
		r, err := capture.Parse(capture.Default())
		if err == nil {
			err = capture.Install(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	uid, err := strconv.Atoi(words[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	switch words[0] {
	case "sidecar":
		p := startPod(t, certtest.NewCA(t, "cluster.local"), "web-1", "web", words[2])
		p.corridors.captor = newCaptor(p.cfg.Pod)
		v := p.view()
		v.Asked = nil // everything is known: nobody is to be asked
		p.apply(v)
	case "serve":
		ln, err := net.Listen("tcp", ":"+words[3])
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, words[2])
				c.Close()
			}
		}()
	case "dial":
		c, err := net.DialTimeout("tcp", words[2], 3*time.Second)
		if err != nil {
			fmt.Println("answer:", err)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(c, "\x00")
		line, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Println("answer:", line)
		return
	}
	fmt.Println("answer: serving")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the test ends
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// role prepares one in a namespace.
func role(ns string, words ...string) *exec.Cmd {
	c := exec.Command("ip", "netns", "exec", ns, os.Args[0], "-test.run=^TestInterfaces$")
	c.Env = append(os.Environ(), roleVariable+"="+strings.Join(words, " "))
	return c
}

// run plays a role to its end and returns its answer.
func run(t *testing.T, ns string, words ...string) string {
	t.Helper()
	out, err := role(ns, words...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", words, err, out)
	}
	_, answer, _ := strings.Cut(string(out), "answer: ")
	answer, _, _ = strings.Cut(answer, "\n")
	return answer
}

// standby plays a role until the test ends.
func standby(t *testing.T, ns string, words ...string) {
	t.Helper()
	c := role(ns, words...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said = append(said, lines.Text()); strings.HasSuffix(lines.Text(), "answer: serving") {
			return
		}
	}
	t.Fatalf("%v: %s", words, strings.Join(said, "\n"))
}

// TestInterfaces is a pod of one IPv4 address with a network more, which Kubernetes knows nothing of, IPv6 in it and addresses that
// come later: all of it is captured, and works, and the sidecar does not call itself.
func TestInterfaces(t *testing.T) {
	if words := os.Getenv(roleVariable); words != "" {
		play(t, strings.Fields(words))
		return
	}
	id := strconv.Itoa(os.Getpid())
	pod, rest := "node-pod-"+id, "node-rest-"+id
	for _, ns := range []string{pod, rest} {
		command(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { command(t, "ip", "netns", "del", ns) })
		command(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	for i, device := range []string{"eth0", "net1"} {
		command(t, "ip", "-n", pod, "link", "add", device, "type", "veth", "peer", "name", device, "netns", rest)
		for j, ns := range []string{rest, pod} {
			command(t, "ip", "-n", ns, "addr", "add", fmt.Sprintf("10.9%d.0.%d/24", i, j+1), "dev", device)
			command(t, "ip", "-n", ns, "link", "set", device, "up")
		}
	}
	run(t, pod, "install")
	standby(t, pod, "sidecar", "1337", "10.90.0.2")
	standby(t, pod, "serve", "1000", "program", "8080")
	standby(t, rest, "serve", "0", "world", "80")
	check := func(networks map[string][2]string) { // the rest's and the pod's address by network
		t.Helper()
		for name, a := range networks {
			if got := run(t, pod, "dial", "1000", net.JoinHostPort(a[0], "80")); got != "world" {
				t.Errorf("%s: a program calls %s: %s", name, a[0], got)
			}
			if got := run(t, rest, "dial", "0", net.JoinHostPort(a[1], "8080")); got != "program" {
				t.Errorf("%s: the program is called at %s: %s", name, a[1], got)
			}
			for _, port := range []string{"15001", "15006"} {
				for _, ns := range []string{pod, rest} {
					if got := run(t, ns, "dial", "1000", net.JoinHostPort(a[1], port)); got == "program" || got == "world" {
						t.Errorf("%s: port %s answers %s", name, port, got)
					}
				}
			}
		}
	}
	check(map[string][2]string{"the pod's": {"10.90.0.1", "10.90.0.2"}, "another": {"10.91.0.1", "10.91.0.2"}})
	for i, ns := range []string{rest, pod} {
		command(t, "ip", "-n", ns, "addr", "add", fmt.Sprintf("fd91::%d/64", i+1), "dev", "net1", "nodad")
		command(t, "ip", "-n", ns, "addr", "add", fmt.Sprintf("10.92.0.%d/24", i+1), "dev", "net1")
	}
	time.Sleep(addressesAfter)
	check(map[string][2]string{"IPv6 that comes later": {"fd91::1", "fd91::2"}, "IPv4 that comes later": {"10.92.0.1", "10.92.0.2"}})
}
