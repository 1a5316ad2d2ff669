package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"
)

// Name is the form in which a host or an IP address is asked for: lower case, without a final dot, an IPv4 address not in
// its IPv6 form; false for what is neither.
func Name(s string) (string, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().String(), a.Zone() == ""
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > maxNameLength {
		return "", false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabelLength || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", false
		}
	}
	return s, true
}

// demand is the making of the part of a view that depends on what was asked.
type demand struct {
	w         *world
	namespace string // of the caller
	sight     sight
	services  map[string]*Service
	routes    map[int]bool
	// hosts are those whose VirtualServices are still to be looked for.
	hosts []string
}

// demanded fills in the services, routes and peers that the names asked for mean, and the answers. A service comes with the
// VirtualServices of its host, and those with the services that they lead to: a proxy never has a service without its routes.
func (w *world) demanded(v *View, s sight, of viewOf) {
	d := &demand{w: w, namespace: v.Self.Namespace, sight: s, services: make(map[string]*Service), routes: make(map[int]bool)}
	v.Asked = make(map[string]Answer, len(of.asked))
	peers := map[*Workload]bool{v.Self: true}
	for _, name := range of.asked {
		var a Answer
		if of.received != nil {
			a = of.received.Asked[name] // what the whole mesh said
			d.again(name, a)
		} else {
			a = d.answer(name)
		}
		if l := w.byName[a.Workload]; a.Workload != "" && l != nil {
			peers[l] = true
			v.plain(a.Workload, a.Plain)
		}
		v.Asked[name] = a
	}
	d.listeners(v.Sidecar)
	for len(d.hosts) > 0 {
		host := d.hosts[0]
		d.hosts = d.hosts[1:]
		d.follow(host)
	}
	v.Services = sortedServices(d.services)
	v.VirtualServices = picked(w.virtualServices, d.routes)
	v.Peers = slices.SortedFunc(maps.Keys(peers), compareWorkloads)
}

// answer says what a name means, and notes that it is needed.
func (d *demand) answer(name string) Answer {
	if a, err := netip.ParseAddr(name); err == nil {
		return d.at(a.Unmap())
	}
	forms := d.forms(name)
	d.hosts = append(d.hosts, forms...)
	for _, form := range forms {
		if s := d.pick(d.w.index.hosts[form]); s != nil {
			return d.add(s)
		}
	}
	if s := d.covering(name); s != nil {
		return d.add(s)
	}
	// A pod of a headless Service has a name below the Service's.
	if _, parent, ok := strings.Cut(name, "."); ok {
		if s := d.pick(d.w.index.hosts[parent]); s != nil && s.Kubernetes && s.Resolution == Original {
			return d.add(s)
		}
	}
	return Answer{}
}

// again notes what a name that the whole mesh answered needs.
func (d *demand) again(name string, a Answer) {
	if _, err := netip.ParseAddr(name); err != nil {
		d.hosts = append(d.hosts, d.forms(name)...)
	} else {
		d.hosts = append(d.hosts, name)
	}
	if s := d.of(a.Host); s != nil {
		d.add(s)
	}
}

// of is the service of exactly a host, which may be a wildcard.
func (d *demand) of(host string) *Service {
	if !strings.HasPrefix(host, "*") {
		return d.pick(d.w.index.hosts[host])
	}
	var list []offer
	for _, o := range d.w.index.wild {
		if o.Host == host {
			list = append(list, o)
		}
	}
	return d.pick(list)
}

// at says what an address means.
func (d *demand) at(a netip.Addr) Answer {
	d.hosts = append(d.hosts, a.String())
	x := &d.w.index
	l, used := x.workloads[a]
	taken := used && (l == nil || l.Pod) // by a Service or a pod, whoever may see it: nobody else says what is there
	if l != nil && !d.sight.reaches(l.Namespace) {
		l = nil
	}
	var near, far []offer
	for _, o := range x.addresses[a] {
		if taken = taken || o.fixed(); o.fixed() || o.Namespace == d.namespace {
			near = append(near, o)
		} else {
			far = append(far, o)
		}
	}
	s := d.pick(near)
	if s == nil {
		s = d.pick(x.headless[a])
	}
	if s == nil && !taken {
		s = d.pick(far)
	}
	var out Answer
	if s != nil {
		out = d.add(s)
	}
	if l != nil && (s == nil || s.Headless()) {
		out.Workload = l.Namespace + "/" + l.Name
		if l.Pod {
			out.Plain = d.w.plain(l)
		}
	}
	if out == (Answer{}) {
		out = d.within(a, taken)
	}
	return out
}

// within says what an address means that only ranges hold: the narrowest. Of one that is taken only the caller's own namespace
// may say so.
func (d *demand) within(a netip.Addr, taken bool) Answer {
	blocks := d.w.index.blocks
	for i, b := range blocks {
		if !b.Contains(a) {
			continue
		}
		var same []offer // ranges of one size that hold one address are the same range
		for ; i < len(blocks) && blocks[i].Bits() == b.Bits(); i++ {
			if blocks[i].Contains(a) && (!taken || blocks[i].Namespace == d.namespace) {
				same = append(same, blocks[i].offer)
			}
		}
		if s := d.pick(same); s != nil {
			return d.add(s)
		}
	}
	return Answer{}
}

// forms are the hosts that a name may mean where the caller is: as resolvers complete it, NAME, NAME.NAMESPACE and
// NAME.NAMESPACE.svc are short for NAME.NAMESPACE.svc.CLUSTERDOMAIN.
func (d *demand) forms(name string) []string {
	switch first, rest, dotted := strings.Cut(name, "."); {
	case !dotted:
		return []string{name, name + "." + d.namespace + ".svc." + d.w.clusterDomain}
	case first != "" && !strings.Contains(rest, "."):
		return []string{name, name + ".svc." + d.w.clusterDomain}
	case strings.Count(rest, ".") == 1 && strings.HasSuffix(rest, ".svc"):
		return []string{name, name + "." + d.w.clusterDomain}
	}
	return []string{name}
}

// pick is the one of several services of a host or an address that counts for the caller: its own namespace's, else the first.
func (d *demand) pick(list []offer) *Service {
	var best *Service
	for _, o := range list {
		if !d.sees(o) {
			continue
		}
		if o.Namespace == d.namespace {
			return o.Service
		}
		if best == nil {
			best = o.Service
		}
	}
	return best
}

func (d *demand) sees(o offer) bool {
	return exported(o.entry.Spec.GetExportTo(), o.Namespace, d.namespace) && d.sight.sees(o.Namespace, o.Host)
}

// covering is the service of the longest wildcard that covers a host.
func (d *demand) covering(host string) *Service {
	longest := 0
	var list []offer
	for _, o := range d.w.index.wild {
		if !hostCovers(o.Host, host) || len(o.Host) < longest || !d.sees(o) {
			continue
		}
		if len(o.Host) > longest {
			longest, list = len(o.Host), nil
		}
		list = append(list, o)
	}
	return d.pick(list)
}

// add takes in a service, or the one of its host that counts for the caller.
func (d *demand) add(s *Service) Answer {
	if d.services[s.Host] == nil {
		s = d.of(s.Host)
		d.services[s.Host] = s
		d.hosts = append(d.hosts, s.Host)
	}
	return Answer{Host: s.Host}
}

// follow takes in the VirtualServices of a host and the services that they lead to.
func (d *demand) follow(host string) {
	found := make(map[int]bool)
	d.w.index.routes.meeting(host, found)
	for i := range found {
		if d.routes[i] || !d.w.applies(d.w.virtualServices[i], d.namespace, d.sight) {
			continue
		}
		d.routes[i] = true
		v := d.w.virtualServices[i]
		for _, to := range destinations(v.Spec) {
			if s := d.lookup(to, v.Namespace); s != nil {
				d.add(s)
			}
		}
	}
}

// lookup is what View.Service would find if everything were there.
func (d *demand) lookup(host, namespace string) *Service {
	var best *Service
	for _, form := range d.w.hostForms(host, namespace) {
		if s := d.of(form); s != nil {
			return s
		}
		if s := d.covering(form); s != nil && (best == nil || len(s.Host) > len(best.Host)) {
			best = s
		}
	}
	return best
}

// destinations are the hosts that a VirtualService leads to.
func destinations(v *networking.VirtualService) []string {
	var out []string
	for _, r := range v.GetHttp() {
		for _, to := range r.GetRoute() {
			out = append(out, to.GetDestination().GetHost())
		}
		if m := r.GetMirror(); m != nil {
			out = append(out, m.GetHost())
		}
		for _, m := range r.GetMirrors() {
			out = append(out, m.GetDestination().GetHost())
		}
	}
	for _, r := range v.GetTcp() {
		for _, to := range r.GetRoute() {
			out = append(out, to.GetDestination().GetHost())
		}
	}
	for _, r := range v.GetTls() {
		for _, to := range r.GetRoute() {
			out = append(out, to.GetDestination().GetHost())
		}
	}
	return out
}

// listeners takes in what the egress listeners of a Sidecar that have a port of their own lead to: nobody asks before calling
// there.
func (d *demand) listeners(s *Typed[*networking.Sidecar]) {
	if s == nil {
		return
	}
	for _, l := range s.Spec.GetEgress() {
		if l.GetPort() == nil {
			continue
		}
		only := sight{entries: []imports{readImports(l.GetHosts(), d.namespace)}}
		for _, svc := range d.w.visible(d.namespace, only) {
			d.add(svc)
		}
	}
}
