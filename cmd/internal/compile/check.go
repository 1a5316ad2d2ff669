package compile

import (
	"errors"
	"fmt"
	"strings"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	policies "github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/authz/rego"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Judge tries to compile one object by itself, whatever workload it may be for: what no sidecar could run is found when the
// object is read, with the field's position. control, which may be nil, is what the control plane's command line says. It is
// a mesh.ParseOptions.Judge.
func Judge(trustDomain string, control *policy.ControlSettings) func(*mesh.Object) []mesh.Problem {
	return func(o *mesh.Object) []mesh.Problem { return judge(o, trustDomain, control) }
}

func judge(o *mesh.Object, trustDomain string, control *policy.ControlSettings) []mesh.Problem {
	var err error
	switch spec := o.Spec.(type) {
	case *networking.VirtualService:
		err = judgeVirtualService(&mesh.Typed[*networking.VirtualService]{Meta: o.Meta, Spec: spec})
	case *networking.DestinationRule:
		err = judgeDestinationRule(&mesh.Typed[*networking.DestinationRule]{Meta: o.Meta, Spec: spec})
	case *security.AuthorizationPolicy:
		p := &mesh.Typed[*security.AuthorizationPolicy]{Meta: o.Meta, Spec: spec}
		_, err = policies.Compile([]*mesh.Typed[*security.AuthorizationPolicy]{p}, policies.Options{TrustDomain: trustDomain, Provider: anyProvider})
		if err != nil {
			field, cause := policies.Field(err)
			return []mesh.Problem{mesh.Fault(o, field, cause.Error())}
		}
	case *security.RequestAuthentication:
		r := &mesh.Typed[*security.RequestAuthentication]{Meta: o.Meta, Spec: spec}
		_, err = (&compiler{view: &mesh.View{RequestAuthentication: []*mesh.Typed[*security.RequestAuthentication]{r}}, parts: NewOffline()}).tokens()
	case *policy.RegoPolicy:
		if _, err = rego.New(rego.Config{Namespace: o.Namespace, Name: o.Name, Spec: spec, Builtins: control.GetRegoBuiltins()}); err != nil {
			field, cause := rego.Field(err)
			field = strings.TrimSuffix("spec."+field, ".")
			if line, column := rego.Place(err); line > 0 {
				text := strings.TrimPrefix(cause.Error(), fmt.Sprintf("module:%d:%d: ", line, column)) // said by the position
				return []mesh.Problem{mesh.FaultInText(o, field, line, column, text)}
			}
			err = &Fault{o.Key, field, cause}
		}
	case *policy.RateLimitPolicy:
		p := &mesh.Typed[*policy.RateLimitPolicy]{Meta: o.Meta, Spec: spec}
		_, err = (&compiler{parts: NewOffline()}).limitSet(rateLimits{p})
	}
	if err == nil {
		return nil
	}
	return []mesh.Problem{fault(o, err)}
}

// anyProvider stands for whatever a provider.name will resolve to.
func anyProvider(_, name string) *authz.Custom {
	return &authz.Custom{Ref: authz.NewRef("ExtensionProvider", "", name, -1), AfterToken: true}
}

// fault is an error as the problem of an object.
func fault(o *mesh.Object, err error) mesh.Problem {
	var f *Fault
	if errors.As(err, &f) {
		return mesh.Fault(o, f.Field, f.Cause.Error())
	}
	return mesh.Fault(o, "", err.Error())
}

func judgeVirtualService(v *mesh.Typed[*networking.VirtualService]) error {
	c := newCompiler(&mesh.View{Self: &mesh.Workload{Namespace: v.Namespace}})
	for i, h := range v.Spec.Http {
		base, err := c.httpRoute(h, v.Namespace, 80)
		for k := 0; err == nil && k < len(h.Match); k++ {
			_, err = matched(base, h.Match[k])
			err = below(item("match", k), err)
		}
		if err != nil {
			return of(&v.Meta, item("spec.http", i), err)
		}
	}
	for i, t := range v.Spec.Tcp {
		if _, err := c.matchesTCP(t, 80); err != nil {
			return of(&v.Meta, item("spec.tcp", i), err)
		}
		if _, err := c.tcpDestinations(t, v.Namespace, 80); err != nil {
			return of(&v.Meta, item("spec.tcp", i), err)
		}
	}
	return nil
}

func judgeDestinationRule(d *mesh.Typed[*networking.DestinationRule]) error {
	if err := judgeTraffic(d.Spec.TrafficPolicy); err != nil {
		return of(&d.Meta, "spec.trafficPolicy", err)
	}
	for i, s := range d.Spec.Subsets {
		if err := judgeTraffic(s.TrafficPolicy); err != nil {
			return of(&d.Meta, item("spec.subsets", i)+".trafficPolicy", err)
		}
	}
	return nil
}

// judgeTraffic tries a policy on a port without settings of its own, and on each that has them.
func judgeTraffic(t *networking.TrafficPolicy) error {
	if t == nil {
		return nil
	}
	c := newCompiler(&mesh.View{Self: &mesh.Workload{}})
	try := func(p trafficPolicy) error {
		if _, err := p.balance(); err != nil {
			return err
		}
		_, err := c.target(&mesh.Endpoint{}, p.tls, nil, false)
		return err
	}
	if err := try((trafficPolicy{}).override(t, 0)); err != nil {
		return err
	}
	for i, l := range t.PortLevelSettings {
		if err := try(trafficPolicy{l.LoadBalancer, l.ConnectionPool, l.Tls}); err != nil {
			return below(item("portLevelSettings", i), err)
		}
	}
	return nil
}

// NewCheck gives a mesh.BuildOptions.Check: it compiles what every workload of a snapshot would run, and refuses the objects
// that can't be. An error that names no object is a warning of its workload, which goes on with what it ran. What did not
// change since the last call is not compiled again. One call at a time.
func NewCheck() func(*mesh.Snapshot) []mesh.Problem {
	parts := NewOffline()
	return func(s *mesh.Snapshot) []mesh.Problem { return parts.check(s) }
}

func (o *Offline) check(s *mesh.Snapshot) []mesh.Problem {
	byKey := make(map[mesh.Key]*mesh.Object, len(s.Objects()))
	for _, object := range s.Objects() {
		byKey[object.Key] = object
	}
	var out []mesh.Problem
	told := map[mesh.Key]bool{}
	o.forget(s)
	for _, w := range s.Workloads() {
		v, ok := s.View(w.Namespace, w.Name)
		if !ok {
			continue
		}
		_, err := Compile(v, o)
		if err == nil {
			continue
		}
		key := mesh.Key{Group: mesh.GroupNetworking, Kind: mesh.KindWorkloadEntry, Namespace: w.Namespace, Name: w.Name}
		var f *Fault
		if errors.As(err, &f) && byKey[f.Key] != nil {
			key = f.Key
		}
		if !told[key] {
			told[key] = true
			p := fault(byKey[key], err)
			if key.Kind == mesh.KindWorkloadEntry {
				p.Severity = mesh.Warning
			}
			out = append(out, p)
		}
	}
	return out
}
