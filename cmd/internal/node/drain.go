package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/signet-mesh/signet/proxy/capture"
)

// drainPoll is how often a sidecar that was told to end looks whether the programs have.
const drainPoll = 100 * time.Millisecond

// maxSockets bounds how many lines of the kernel's table of sockets are read.
const maxSockets = 1 << 20

// tables are the kernel's tables of the TCP sockets in this network namespace.
var tables = [...]string{"/proc/self/net/tcp", "/proc/self/net/tcp6"}

// drain waits, once the sidecar was told to end, as long as the programs may still need it: they were told at the same moment and
// still finish what they do, and call out for that. Both corridors are open all the while; only readiness says that nothing new
// should come.
//
// A program is there as long as a socket of another user than the sidecar's listens or is connected. A native sidecar is told to
// end after the programs did: it waits for such sockets, up to Pod.Drain. Any other waits at least Pod.Drain, as a program that
// has no socket at this moment may open one at the next, and then until they are gone. Nobody waits longer than Pod.Grace, after
// which kubelet kills.
func (n *Node) drain(ctx context.Context, quit <-chan struct{}) {
	p := n.cfg.Pod
	least, most := p.Drain, p.Grace
	if p.Native {
		least, most = 0, min(p.Drain, p.Grace)
	}
	start := time.Now()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for {
		waited := time.Since(start)
		busy, err := programs(tables[:])
		if err != nil {
			n.cfg.Log.Warn("can't tell whether the pod's programs have ended", "error", err)
			busy = waited < p.Drain
		}
		if waited >= least && !busy || waited >= most {
			n.cfg.Log.Info("drained", "after", waited.Round(time.Millisecond), "programs_left", busy)
			return
		}
		select {
		case <-tick.C:
		case <-quit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// programs reports whether a process of another user than the sidecar's has a TCP socket that listens or is connected.
func programs(paths []string) (bool, error) {
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return false, fmt.Errorf("reading sockets: %w", err)
		}
		found, err := foreign(f)
		f.Close()
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// foreign reads a table: its lines are SLOT LOCAL REMOTE STATE QUEUES TIMER RETRANSMITS UID ... (proc_net_tcp of the kernel's
// documentation). Sockets that only wait for their end have no process.
func foreign(r io.Reader) (bool, error) {
	lines := bufio.NewScanner(r)
	lines.Scan() // the heading
	for n := 0; n < maxSockets && lines.Scan(); n++ {
		f := strings.Fields(lines.Text())
		if len(f) < 8 {
			continue
		}
		switch f[3] {
		case "01", "02", "03", "08", "0A": // established, SYN sent, SYN received, close wait, listening
		default:
			continue
		}
		if uid, err := strconv.Atoi(f[7]); err == nil && uid != capture.UID {
			return true, nil
		}
	}
	return false, lines.Err()
}
