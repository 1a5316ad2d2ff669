package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1"
)

// Plain says at which ports a workload takes plaintext only, for a PeerAuthentication's DISABLE. It is a text of port numbers,
// ascending, with spaces between: "9090 9091" are those, "!" are all, "!8080" all but that, and "" is none.
type Plain string

// ParsePlain judges such a text.
func ParsePlain(s string) (Plain, error) {
	list, _ := strings.CutPrefix(s, "!")
	last := uint64(0)
	for _, text := range strings.Fields(list) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n <= last {
			return "", fmt.Errorf("ports %q: want numbers of ports, ascending", s)
		}
		last = n
	}
	if p := Plain(s); p != newPlain(p.All(), p.Ports()) {
		return "", fmt.Errorf("ports %q: want one space between numbers of ports", s)
	}
	return Plain(s), nil
}

func newPlain(all bool, ports []uint16) Plain {
	var text []string
	for _, p := range ports {
		text = append(text, strconv.Itoa(int(p)))
	}
	out := strings.Join(text, " ")
	if all {
		out = "!" + out
	}
	return Plain(out)
}

// All reports whether all ports take plaintext only, but those that Ports lists.
func (p Plain) All() bool { return strings.HasPrefix(string(p), "!") }

// Ports are those that are listed.
func (p Plain) Ports() []uint16 {
	var out []uint16
	for _, text := range strings.Fields(strings.TrimPrefix(string(p), "!")) {
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			out = append(out, uint16(n))
		}
	}
	return out
}

// plain reads the PeerAuthentications of a workload.
func (w *world) plain(l *Workload) Plain {
	policies := w.peerPolicies(l)
	disabled := func(port uint32) bool {
		return mtlsMode(policies, l, w.settings.RootNamespace, port) == security.PeerAuthentication_MutualTLS_DISABLE
	}
	all := disabled(0) // no policy has settings of port 0
	ports := make(map[uint16]bool)
	for _, p := range policies {
		for number := range p.Spec.GetPortLevelMtls() {
			if number > 0 && number < 1<<16 && disabled(number) != all {
				ports[uint16(number)] = true
			}
		}
	}
	return newPlain(all, slices.Sorted(maps.Keys(ports)))
}

// readPlains is plain of every pod, nil where no PeerAuthentication says DISABLE.
func (w *world) readPlains() map[string]Plain {
	if !slices.ContainsFunc(w.peers, func(p *Typed[*security.PeerAuthentication]) bool { return disables(p.Spec) }) {
		return nil
	}
	v := &View{}
	for _, l := range w.workloads {
		if l.Pod {
			v.plain(l.Namespace+"/"+l.Name, w.plain(l))
		}
	}
	return v.Plain
}

func disables(p *security.PeerAuthentication) bool {
	const disable = security.PeerAuthentication_MutualTLS_DISABLE
	for _, m := range p.GetPortLevelMtls() {
		if m.GetMode() == disable {
			return true
		}
	}
	return p.GetMtls().GetMode() == disable
}

// plain notes what is said of one workload.
func (v *View) plain(workload string, p Plain) {
	if p == "" {
		return
	}
	if v.Plain == nil {
		v.Plain = make(map[string]Plain)
	}
	v.Plain[workload] = p
}
