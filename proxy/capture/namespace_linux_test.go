package capture

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary plays the pod's processes as well: roles, each in a network namespace and as a user.

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		if err := play(os.Args[2], os.Args[3:]); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is one role: install ANNOTATIONS..., serve UID GID NAME=PORT..., or dial UID GID NETWORK SOURCE DESTINATION.
func play(role string, args []string) error {
	if role == "install" {
		r, err := Parse(Annotated{args[0], args[1], args[2], args[3], args[4], args[5]})
		if err != nil {
			return err
		}
		r.DNS = args[6] == "dns"
		return Install(r)
	}
	uid, _ := strconv.Atoi(args[0])
	gid, _ := strconv.Atoi(args[1])
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(gid); err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	if role == "serve" {
		return serve(args[2:])
	}
	return dial(args[2], args[3], args[4])
}

// serve answers on each port, over TCP and UDP, with its name and, over TCP, the original destination.
func serve(ports []string) error {
	for _, p := range ports {
		name, port, _ := strings.Cut(p, "=")
		ln, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				at, err := Original(c.(*net.TCPConn))
				fmt.Fprintln(c, name, at, err)
				c.Close()
			}
		}()
		for network, host := range map[string]string{"udp4": "127.0.0.1", "udp6": "::1"} {
			if name != "DNS" { // whose answers must leave from where it was asked
				host = ""
			}
			u, err := net.ListenPacket(network, net.JoinHostPort(host, port))
			if err != nil {
				return err
			}
			go func() {
				b := make([]byte, 100)
				for {
					n, from, err := u.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = u.WriteTo([]byte(name+" "+string(b[:n])+"\n"), from)
				}
			}()
		}
	}
	fmt.Println("serving")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n') // until the test ends
	_ = err
	return nil
}

func dial(network, source, to string) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	if source != "" {
		from := netip.MustParseAddrPort(source)
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(from)
		}
	}
	c, err := d.Dial(network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("asked")); err != nil {
			return err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	return err
}

// world is a pod's namespace and one of the rest, with a cable between.
type world struct{ pod, rest string }

// The addresses of a world.
const (
	pod4, rest4, other4 = "10.99.0.2", "10.99.0.1", "10.98.0.1"
	pod6, rest6, other6 = "fd99::2", "fd99::1", "fd98::1"
)

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func build(t *testing.T) world {
	t.Helper()
	id := fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()%1000000)
	w := world{"capture-pod-" + id, "capture-rest-" + id}
	for _, ns := range []string{w.pod, w.rest} {
		command(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { command(t, "ip", "netns", "del", ns) })
		command(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	command(t, "ip", "-n", w.pod, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", w.rest)
	for _, side := range []struct{ ns, four, six string }{{w.pod, pod4, pod6}, {w.rest, rest4, rest6}, {w.rest, other4, other6}} {
		command(t, "ip", "-n", side.ns, "addr", "add", side.four+"/24", "dev", "eth0")
		command(t, "ip", "-n", side.ns, "addr", "add", side.six+"/64", "dev", "eth0", "nodad")
		command(t, "ip", "-n", side.ns, "link", "set", "eth0", "up")
	}
	command(t, "ip", "-n", w.pod, "route", "add", "default", "via", rest4)
	command(t, "ip", "-n", w.pod, "-6", "route", "add", "default", "via", rest6)
	return w
}

// run plays a role in a namespace and returns what it prints.
func run(t *testing.T, ns, role string, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", ns, os.Args[0], "role", role}, args...)...).CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatalf("%s in %s: %v", role, ns, err)
	}
	return strings.TrimSpace(string(out))
}

// serving runs a server until the test ends.
func (w world) serving(t *testing.T, ns, uid string, ports ...string) {
	t.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", ns, os.Args[0], "role", "serve", uid, uid}, ports...)...)
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
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("server %v: %q", ports, line)
	}
}

// install writes rules in the pod's namespace.
func (w world) install(t *testing.T, a Annotated, dns bool) {
	t.Helper()
	word := ""
	if dns {
		word = "dns"
	}
	out := run(t, w.pod, "install", a.IncludeOutboundPorts, a.ExcludeOutboundPorts, a.IncludeOutboundRanges, a.ExcludeOutboundRanges,
		a.IncludeInboundPorts, a.ExcludeInboundPorts, word)
	if out != "" {
		t.Fatalf("install: %s", out)
	}
}
