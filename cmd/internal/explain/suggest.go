package explain

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy/judge"
)

// SuggestOptions say how policies are written.
type SuggestOptions struct {
	// Values is how many values one position of a path may have before it becomes {*}; 0 is 10.
	Values int
}

// Suggestion is policies that allow what was recorded, and no more.
type Suggestion struct {
	// YAML holds them, with what was left out as comments before.
	YAML []byte
	// Policies is how many there are.
	Policies int
	// LeftOut is what they don't allow, or do not speak of.
	LeftOut []Unjudged
	// Silent are workloads for which nothing was recorded, and which so get no policy.
	Silent []string
}

// need is what one caller needs of one port.
type need struct {
	port    uint16
	tcp     bool
	callers map[string]bool // principals
	methods map[string]bool
	paths   map[string]bool
}

// target is the workloads that one policy selects.
type target struct {
	namespace string
	labels    map[string]string // nil: the whole namespace
	names     []string
	paths     map[needKey]*pathSet // of one caller by port and method
	tcp       map[needKey]bool
}

type needKey struct {
	principal string
	port      uint16
	method    string
}

// Suggest writes the least-privilege AuthorizationPolicies that recorded traffic needs. What it writes is judged by the
// traffic itself: a request that would be denied all the same is named as left out.
func Suggest(ctx context.Context, t *Traffic, o SuggestOptions) (*Suggestion, error) {
	if o.Values <= 0 {
		o.Values = 10
	}
	w := &writer{t: t, o: o, decoded: map[shape]bool{}, hopeless: map[shape]bool{}, stands: map[element]bool{}}
	for range maxRounds {
		s, err := w.write(ctx)
		if err != nil {
			return nil, err
		}
		denied, err := w.denied(ctx, s.YAML)
		if err != nil || len(denied) == 0 {
			return s, err
		}
		for _, x := range denied {
			w.hopeless[x] = w.decoded[x] // once more with the other reading of its path
			w.decoded[x] = true
		}
	}
	return nil, fmt.Errorf("suggesting policies: after %d rounds there are still requests that they would deny", maxRounds)
}

// maxRounds is how often policies are written anew without what they deny. What is denied twice is left out, so that a third
// round is seldom needed.
const maxRounds = 16

// writer is the state of one Suggest.
type writer struct {
	t *Traffic
	o SuggestOptions
	// decoded are the shapes whose path must be allowed in both readings, hopeless those that are denied even so.
	decoded, hopeless map[shape]bool
	wanted            []shape
	stands            map[element]bool // what writable found
}

func (w *writer) write(ctx context.Context) (*Suggestion, error) {
	out, t := &Suggestion{}, w.t
	left := reasons{}
	for reason, u := range t.passed {
		left[reason] = u
	}
	targets := map[string]*target{}
	w.wanted = w.wanted[:0]
	for x, n := range t.counts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if reason := w.want(targets, &x); reason != "" {
			left.add(n, strings.TrimSpace(fmt.Sprintf("%s %s from %s to %s", x.method, x.path, x.who(), x.whom())), "%s", reason)
		} else {
			w.wanted = append(w.wanted, x)
		}
	}
	var docs [][]byte
	spoken := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(targets)) {
		g := targets[key]
		doc, err := w.policy(g)
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
		for _, name := range g.names {
			spoken[name] = true
		}
	}
	for _, l := range t.mesh.snapshot.Workloads() {
		if name := l.Namespace + "/" + l.Name; !spoken[name] && !l.ID.IsZero() {
			out.Silent = append(out.Silent, name)
		}
	}
	out.Policies, out.LeftOut = len(docs), left.list()
	out.YAML = append(out.comments(t), bytes.Join(docs, []byte("---\n"))...)
	return out, nil
}

// denied are the shapes that policies were written for and which they deny. What `signet validate` would refuse of them is
// an error.
func (w *writer) denied(ctx context.Context, text []byte) ([]shape, error) {
	objects, problems := mesh.Parse("suggestion", text, mesh.ParseOptions{TrustDomain: w.t.mesh.trustDomain})
	for _, o := range w.t.mesh.snapshot.Objects() {
		if o.Kind != mesh.KindAuthorizationPolicy && o.Group != mesh.GroupInternal {
			objects = append(objects, o)
		}
	}
	m, err := build("suggestion", w.t.mesh.trustDomain, objects, problems)
	if err != nil {
		return nil, err
	}
	var out []shape
	rs := map[string]*replayer{}
	for _, x := range w.wanted {
		o, _, err := replay(ctx, rs, m, &x)
		if err != nil {
			return nil, err
		}
		if o.decision != Allow {
			out = append(out, x)
		}
	}
	return out, nil
}

// want adds one shape to what its server must allow; reason is why it is left out.
func (w *writer) want(targets map[string]*target, x *shape) (reason string) {
	t := w.t
	switch {
	case w.hopeless[*x]:
		return "no pattern of a policy allows it as it was recorded"
	case x.recorded.decision != Allow:
		return "it was denied"
	case x.from == "":
		return "the caller proved no identity, so that no principal can be allowed"
	}
	id, err := identity.Parse(x.from)
	if err != nil {
		return err.Error()
	}
	at, err := t.mesh.At(x.to)
	if err != nil {
		return err.Error()
	}
	port, err := inboundPort(at.Workload, x.port)
	if err != nil {
		return err.Error()
	}
	var readings []string
	tcp := x.tcp || !port.HTTP
	if !tcp {
		if readings, reason = w.readings(x, &at.Judge); reason != "" {
			return reason
		}
	}
	g, reason := t.target(targets, x.to) // last: a target without a rule would deny everything
	if reason != "" {
		return reason
	}
	if tcp {
		g.tcp[needKey{id.Principal(), x.port, ""}] = true
		return ""
	}
	key := needKey{id.Principal(), x.port, x.method}
	if g.paths[key] == nil {
		g.paths[key] = &pathSet{}
	}
	for _, p := range readings {
		g.paths[key].add(strings.Split(p, "/")[1:])
	}
	return ""
}

// readings are the forms of the path that an ALLOW rule must match: the canonical one, and for those that it does not do for
// also the decoded one.
func (w *writer) readings(x *shape, j *judge.Judge) ([]string, string) {
	switch {
	case strings.Contains(x.method, "*") || !w.writable(element{method: x.method}): // a * would be a pattern
		return nil, "its method can't be written in a policy"
	case !strings.HasPrefix(x.path, "/"):
		return nil, "its target is no path"
	}
	var s judge.Scratch
	canonical, decoded, f := judge.Canonical(x.path, j.Normalization, &s)
	switch {
	case f != nil:
		return nil, "its path can't be read"
	case !w.decoded[*x] || decoded == "" || decoded == canonical:
		return []string{strings.Clone(canonical)}, ""
	}
	return []string{strings.Clone(canonical), strings.Clone(decoded)}, ""
}

// target is the policy that speaks for a workload: by its label app where it has one, else by all its labels, and for the
// whole namespace where it is alone there.
func (t *Traffic) target(targets map[string]*target, name string) (*target, string) {
	namespace, workload, _ := strings.Cut(name, "/")
	var own *mesh.Workload
	alone := true
	for _, w := range t.mesh.snapshot.Workloads() {
		if w.Namespace == namespace && w.Name == workload {
			own = w
		} else if w.Namespace == namespace {
			alone = false
		}
	}
	labels := own.Labels
	if app := labels["app"]; app != "" {
		labels = map[string]string{"app": app}
	}
	if len(labels) == 0 && !alone {
		return nil, "the server has no labels to select it by, and is not alone in its namespace"
	}
	key := namespace + fmt.Sprint(labels)
	g := targets[key]
	if g == nil {
		g = &target{namespace: namespace, labels: labels, paths: map[needKey]*pathSet{}, tcp: map[needKey]bool{}}
		for _, w := range t.mesh.snapshot.Workloads() {
			if w.Namespace == namespace && covers(labels, w.Labels) {
				g.names = append(g.names, namespace+"/"+w.Name)
			}
		}
		targets[key] = g
	}
	return g, ""
}

func covers(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// needs are what callers need, those of one sort united: first the methods of one caller with the same paths, then the
// callers with the same of all.
func (g *target) needs(o SuggestOptions) []*need {
	byCaller := map[string]*need{}
	for key, set := range g.paths {
		set.fold(o.Values)
		paths := set.list()
		id := fmt.Sprintf("%s %d %q", key.principal, key.port, paths)
		n := byCaller[id]
		if n == nil {
			n = &need{port: key.port, callers: map[string]bool{key.principal: true}, methods: map[string]bool{}, paths: map[string]bool{}}
			for _, p := range paths {
				n.paths[p] = true
			}
			byCaller[id] = n
		}
		n.methods[key.method] = true
	}
	for key := range g.tcp {
		byCaller[fmt.Sprintf("%s %d tcp", key.principal, key.port)] = &need{port: key.port, tcp: true, callers: map[string]bool{key.principal: true}}
	}
	bySort := map[string]*need{}
	for _, id := range slices.Sorted(maps.Keys(byCaller)) {
		n := byCaller[id]
		sort := fmt.Sprintf("%05d %v %q %q", n.port, n.tcp, slices.Sorted(maps.Keys(n.methods)), slices.Sorted(maps.Keys(n.paths)))
		if have := bySort[sort]; have != nil {
			maps.Copy(have.callers, n.callers)
			continue
		}
		bySort[sort] = n
	}
	var out []*need
	for _, sort := range slices.Sorted(maps.Keys(bySort)) {
		out = append(out, bySort[sort])
	}
	return out
}

// The YAML of a policy.
type (
	policyDoc struct {
		APIVersion string            `yaml:"apiVersion"`
		Kind       string            `yaml:"kind"`
		Metadata   map[string]string `yaml:"metadata"`
		Spec       policySpec        `yaml:"spec"`
	}
	policySpec struct {
		Selector *policySelector `yaml:"selector,omitempty"`
		Action   string          `yaml:"action"`
		Rules    []policyRule    `yaml:"rules"`
	}
	policySelector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	policyRule struct {
		From []map[string]map[string][]string `yaml:"from"`
		To   []map[string]policyOperation     `yaml:"to"`
	}
	policyOperation struct {
		Ports   []string `yaml:"ports"`
		Methods []string `yaml:"methods,omitempty"`
		Paths   []string `yaml:"paths,omitempty"`
	}
)

// policy writes the AuthorizationPolicy of a target without what a policy can't say, which its requests are then left out for.
func (w *writer) policy(g *target) ([]byte, error) {
	doc, err := g.policy(w.o, func(element) bool { return true })
	if err != nil || w.stand(doc) {
		return doc, err
	}
	return g.policy(w.o, w.writable)
}

// stand reports whether the mesh takes a policy.
func (w *writer) stand(doc []byte) bool {
	_, problems := mesh.Parse("suggestion", doc, mesh.ParseOptions{TrustDomain: w.t.mesh.trustDomain})
	return len(mesh.Refusals(problems)) == 0
}

// element is a method or a path of a policy.
type element struct{ method, path string }

// writable reports whether the mesh takes a policy with that element.
func (w *writer) writable(e element) bool {
	ok, known := w.stands[e]
	if known {
		return ok
	}
	g := &target{namespace: "default", names: []string{"default/any"}, paths: map[needKey]*pathSet{}}
	n := &need{port: 1, callers: map[string]bool{"*": true}, methods: map[string]bool{}, paths: map[string]bool{}}
	if e.method != "" {
		n.methods[e.method] = true
	} else {
		n.paths[e.path] = true
	}
	doc, err := g.encode([]*need{n})
	ok = err == nil && w.stand(doc)
	w.stands[e] = ok
	return ok
}

// drop leaves out what does not stand, and reports whether nothing is left.
func (n *need) drop(stands func(element) bool) bool {
	maps.DeleteFunc(n.methods, func(m string, _ bool) bool { return !stands(element{method: m}) })
	maps.DeleteFunc(n.paths, func(p string, _ bool) bool { return !stands(element{path: p}) })
	return !n.tcp && (len(n.methods) == 0 || len(n.paths) == 0)
}

// policy writes the AuthorizationPolicy of a target with the elements that stand.
func (g *target) policy(o SuggestOptions, stands func(element) bool) ([]byte, error) {
	needs := slices.DeleteFunc(g.needs(o), func(n *need) bool { return n.drop(stands) })
	if len(needs) > mesh.MaxRules {
		return nil, fmt.Errorf("writing policy %s/%s: it would need %d rules, more than %d; give a smaller number of values to a position of a path",
			g.namespace, g.name(), len(needs), mesh.MaxRules)
	}
	return g.encode(needs)
}

func (g *target) encode(needs []*need) ([]byte, error) {
	d := policyDoc{APIVersion: mesh.GroupSecurity + "/v1", Kind: mesh.KindAuthorizationPolicy,
		Metadata: map[string]string{"name": g.name(), "namespace": g.namespace}, Spec: policySpec{Action: "ALLOW"}}
	if len(g.labels) > 0 {
		d.Spec.Selector = &policySelector{g.labels}
	}
	for _, n := range needs {
		op := policyOperation{Ports: []string{strconv.Itoa(int(n.port))}, Methods: slices.Sorted(maps.Keys(n.methods)), Paths: slices.Sorted(maps.Keys(n.paths))}
		d.Spec.Rules = append(d.Spec.Rules, policyRule{
			From: []map[string]map[string][]string{{"source": {"principals": slices.Sorted(maps.Keys(n.callers))}}},
			To:   []map[string]policyOperation{{"operation": op}}})
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(d), enc.Close()); err != nil {
		return nil, fmt.Errorf("writing policy: %w", err)
	}
	return b.Bytes(), nil
}

// name is recorded-APP, or recorded-WORKLOAD where the label is no name of an object.
func (g *target) name() string {
	_, first, _ := strings.Cut(g.names[0], "/")
	app := g.labels["app"]
	if strings.ContainsAny(app, "_.") || strings.ToLower(app) != app {
		app = ""
	}
	return "recorded-" + cmp.Or(app, first)
}

// comments say what the policies were written from and what they leave out.
func (s *Suggestion) comments(t *Traffic) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What %s, and nothing else. Judge it before it applies: signet simulate.\n",
		Count(t.Requests, "recorded request needs", "recorded requests need"))
	for _, u := range s.LeftOut {
		fmt.Fprintf(&b, "# Left out, %s\n", u.text())
	}
	for _, name := range s.Silent {
		fmt.Fprintf(&b, "# Nothing was recorded for %s: no policy is written for it.\n", name)
	}
	return b.Bytes()
}
