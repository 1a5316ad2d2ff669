package up

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/node"
	"github.com/signet-mesh/signet/cmd/internal/plane"
)

const (
	// linger is how long the sidecar of a workload that is gone serves on: by then no other sidecar sends it anything.
	linger = 500 * time.Millisecond
	// replaceGrace is how long a sidecar may take to end whose workload has another identity now: the new one waits.
	replaceGrace = time.Second
	// absentRetry is how often an address that this machine doesn't have is looked for.
	absentRetry = 2 * time.Second
)

// sidecar is one workload's sidecar process, over all its restarts. who and status are guarded by up.mu.
type sidecar struct {
	who    plane.Workload
	status *node.Status // nil while it is not ready
	// absent says that this machine doesn't have the workload's address: nobody waits for such a sidecar.
	absent bool
	stop   context.CancelFunc
	hurry  chan struct{} // closed to kill it
	done   chan struct{}
	leave  *time.Timer // calls stop, once its workload is gone
}

func keyOf(namespace, name string) string { return namespace + "/" + name }

// follow starts the sidecars of new workloads and ends those of workloads that are gone. The control plane already knows
// of what it is given.
func (u *up) follow(ctx context.Context, workloads []plane.Workload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended || ctx.Err() != nil {
		return
	}
	want := u.admit(workloads)
	for key, sc := range u.sidecars {
		w, ok := want[key]
		switch {
		case !ok:
			sc.leave = time.AfterFunc(linger, sc.stop)
		case w.ID != sc.who.ID:
			u.cfg.Log.Info("service account changed: restarting the sidecar", "workload", w.Namespace+"."+w.Name, "spiffe_id", w.ID)
			sc.stop()
			time.AfterFunc(replaceGrace, func() { close(sc.hurry) })
		default:
			sc.who = w
			continue
		}
		u.leaving[key] = sc
		delete(u.sidecars, key)
	}
	for key, w := range want {
		if u.sidecars[key] != nil {
			continue
		}
		before := u.leaving[key]
		if before != nil && before.who.ID == w.ID && before.leave != nil && before.leave.Stop() {
			before.who, before.leave = w, nil // it is back before it went
			u.sidecars[key] = before
			continue
		}
		u.sidecars[key] = u.startSidecar(ctx, w, before)
	}
	u.wake()
}

// keepFollowing follows what the control plane says until ctx ends.
func (u *up) keepFollowing(ctx context.Context, workloads <-chan []plane.Workload) {
	for {
		select {
		case w := <-workloads:
			u.follow(ctx, w)
		case <-ctx.Done():
			return
		}
	}
}

// admit leaves out workloads that have the address of another: first those whose sidecar runs, then by name. It says so
// once.
func (u *up) admit(workloads []plane.Workload) map[string]plane.Workload {
	runs := func(w plane.Workload) int {
		if sc := u.sidecars[keyOf(w.Namespace, w.Name)]; sc != nil && sc.who.Address == w.Address {
			return 0
		}
		return 1
	}
	workloads = slices.Clone(workloads)
	slices.SortStableFunc(workloads, func(a, b plane.Workload) int { return cmp.Compare(runs(a), runs(b)) })
	want, refused := map[string]plane.Workload{}, map[string]string{}
	taken := map[netip.Addr]plane.Workload{}
	for _, w := range workloads {
		key := keyOf(w.Namespace, w.Name)
		first, shared := taken[w.Address]
		if !shared {
			taken[w.Address], want[key] = w, w
			continue
		}
		refused[key] = fmt.Sprintf("%s: WorkloadEntry %s: spec.address: %s", w.Position, key, sharedAddress(w, first))
		if refused[key] != u.refused[key] {
			u.cfg.Log.Error(refused[key], "effect", "it has no sidecar")
		}
	}
	u.refused = refused
	return want
}

// startSidecar starts a workload's sidecar as soon as the one before it has ended. mu is held.
func (u *up) startSidecar(ctx context.Context, w plane.Workload, before *sidecar) *sidecar {
	own, stop := context.WithCancel(ctx)
	sc := &sidecar{who: w, stop: stop, hurry: make(chan struct{}), done: make(chan struct{})}
	u.running.Go(func() {
		defer stop()
		defer close(sc.done)
		if before != nil {
			<-before.done
		}
		if u.present(own, sc) {
			u.keepSidecar(own, sc)
		}
	})
	return sc
}

// present waits until this machine has the workload's address, and says so when it hasn't. false: ctx ended.
func (u *up) present(ctx context.Context, sc *sidecar) bool {
	said := ""
	for ctx.Err() == nil {
		u.mu.Lock()
		w := sc.who
		u.mu.Unlock()
		err := bindable(ctx, w.Address)
		u.mu.Lock()
		sc.absent = err != nil
		u.wake()
		u.mu.Unlock()
		if err == nil {
			return true
		}
		if text := w.Position + w.Address.String(); text != said {
			u.cfg.Log.Error(fmt.Sprintf("%s: WorkloadEntry %s/%s: spec.address: this machine does not have %q", w.Position, w.Namespace, w.Name, w.Address),
				"effect", "its sidecar starts when the address is there; the others run")
			said = text
		}
		select {
		case <-time.After(absentRetry):
		case <-ctx.Done():
		}
	}
	return false
}

// bindable reports whether an address is this machine's. Other troubles are the sidecar's to report.
func bindable(ctx context.Context, a netip.Addr) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(a, 0).String())
	if err == nil {
		return ln.Close()
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return err
	}
	return nil
}

// endSidecars waits for all sidecars, whose context has ended, and lets none start.
func (u *up) endSidecars() {
	u.mu.Lock()
	u.ended = true
	u.mu.Unlock()
	u.running.Wait()
}

// wake tells those who wait that something changed. mu is held.
func (u *up) wake() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// readStatuses takes the lines that a sidecar writes whenever it is ready anew, until its process ends.
func (u *up) readStatuses(sc *sidecar, r *os.File) {
	dec := json.NewDecoder(r)
	for {
		s := &node.Status{}
		err := dec.Decode(s)
		u.mu.Lock()
		if sc.status = s; err != nil {
			sc.status = nil
		}
		u.wake()
		u.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// readWorkloads hands on each list that the control plane writes, until its process or ctx ends.
func readWorkloads(ctx context.Context, r io.Reader, told chan<- []plane.Workload) {
	dec := json.NewDecoder(r)
	for {
		var w []plane.Workload
		if err := dec.Decode(&w); err != nil {
			return
		}
		select {
		case told <- w:
		case <-ctx.Done():
			return
		}
	}
}

// waiting lists the sidecars that are awaited and not ready.
func (u *up) waiting() (missing []string, changed <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, sc := range u.sidecars {
		if sc.status == nil && !sc.absent {
			missing = append(missing, sc.who.Namespace+"."+sc.who.Name)
		}
	}
	return missing, u.changed
}
