package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/mesh"
)

// Fill returns the view with assigned addresses in the services that have none of their own and need one: those of
// ServiceEntries with resolution STATIC or DNS and a host without wildcard. Kubernetes' own Services without an address
// (headless, ExternalName) are resolved by the cluster's DNS, and with resolution NONE an address that was assigned would lead
// nowhere. The view that was given is not changed. Hosts of the view before keep their addresses.
func (a *Assigner) Fill(v *mesh.View) *mesh.View {
	var hosts []string
	for _, s := range v.Services {
		if needsAddress(s) {
			hosts = append(hosts, s.Host)
		}
	}
	assigned := a.Assign(hosts)
	if len(assigned) == 0 {
		return v
	}
	out := *v
	out.Services = slices.Clone(v.Services)
	for i, s := range out.Services {
		pair, ok := assigned[s.Host]
		if !ok || !needsAddress(s) {
			continue
		}
		filled := *s
		filled.Assigned = true
		for _, addr := range pair {
			filled.Addresses = append(filled.Addresses, netip.PrefixFrom(addr, addr.BitLen()))
		}
		out.Services[i] = &filled
	}
	return &out
}

func needsAddress(s *mesh.Service) bool {
	return !s.Kubernetes && len(s.Addresses) == 0 && s.Resolution != mesh.Original && !strings.HasPrefix(s.Host, "*")
}

// entry is what a host has.
type entry struct {
	four, six []netip.Addr
	// assigned says that no other resolver knows these addresses, nor perhaps the host.
	assigned bool
}

// Table says which host of a view has which addresses. Immutable. The nil Table knows none.
type Table struct {
	exact map[string]entry
	wild  map[string]entry // of *.SUFFIX, by SUFFIX
}

// NewTable reads a view, one that Assigner.Fill filled. Of addresses that are ranges none is an answer.
func NewTable(v *mesh.View) *Table {
	t := &Table{exact: map[string]entry{}, wild: map[string]entry{}}
	for _, s := range v.Services {
		e := entry{}
		for _, p := range s.Addresses {
			a := p.Addr().Unmap()
			switch {
			case !p.IsSingleIP() || a.IsUnspecified():
				continue
			case a.Is4():
				e.four = append(e.four, a)
			default:
				e.six = append(e.six, a)
			}
			e.assigned = e.assigned || range4.Contains(a) || range6.Contains(a)
		}
		if len(e.four)+len(e.six) == 0 {
			continue
		}
		if suffix, wild := strings.CutPrefix(s.Host, "*."); wild {
			t.wild[suffix] = e
		} else {
			t.exact[s.Host] = e
		}
	}
	return t
}

// find is the entry of a name in lower case without final dot: the host's, else that of the longest wildcard.
func (t *Table) find(name string) (entry, bool) {
	if t == nil {
		return entry{}, false
	}
	if e, ok := t.exact[name]; ok {
		return e, true
	}
	for rest := name; len(t.wild) > 0; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		if e, ok := t.wild[after]; ok {
			return e, true
		}
		rest = after
	}
	return entry{}, false
}
