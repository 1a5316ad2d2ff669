package explain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/rego"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/dir"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/judge"
)

// RefusedError says that a directory does not stand: nothing was judged by it.
type RefusedError struct {
	Dir      string
	Problems []mesh.Problem
}

// Error lists every refusal, a line each.
func (e *RefusedError) Error() string {
	s := fmt.Sprintf("%s: %d refused; nothing was judged", e.Dir, len(e.Problems))
	for i := range e.Problems {
		s += "\n  " + e.Problems[i].Error()
	}
	return s
}

// Mesh is a directory of objects that stands, with what each workload runs.
type Mesh struct {
	snapshot    *mesh.Snapshot
	trustDomain string
	at          map[string]*At // by NAMESPACE/NAME, as they are asked for
	views       map[string]*mesh.View
	parts       compile.Parts
}

// assumed is what a control plane's command line would have to say for all that a directory may hold: what it does say is
// judged where it is started. Nothing is asked of the store.
func assumed() *policy.ControlSettings {
	return &policy.ControlSettings{RegoBuiltins: []string{"http.send", "net.lookup_ip_addr", "opa.runtime"},
		RateLimitStore: &policy.RateLimitStore{Url: "redis://localhost:6379"}}
}

// Load reads a directory as `signet validate` does. A directory with anything refused is a *RefusedError.
func Load(name, trustDomain string) (*Mesh, error) { return load(name, trustDomain, nil) }

// load leaves out what skip says.
func load(name, trustDomain string, skip func(path string, data []byte) bool) (*Mesh, error) {
	var objects []*mesh.Object
	var problems []mesh.Problem
	now := time.Now()
	err := eachFile(name, func(path string, data []byte) error {
		if skip != nil && skip(path, data) || len(bytes.TrimSpace(data)) == 0 {
			return nil
		}
		o, p := mesh.Parse(path, data, mesh.ParseOptions{TrustDomain: trustDomain, Now: now, Judge: compile.Judge(trustDomain, assumed())})
		objects, problems = append(objects, o...), append(problems, p...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return build(name, trustDomain, objects, problems)
}

func build(name, trustDomain string, objects []*mesh.Object, problems []mesh.Problem) (*Mesh, error) {
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: trustDomain, Check: compile.NewCheck(), Control: assumed()})
	if refused := mesh.Refusals(append(problems, more...)); len(refused) > 0 {
		return nil, &RefusedError{name, refused}
	}
	return &Mesh{snapshot: s, trustDomain: trustDomain, at: map[string]*At{}, views: map[string]*mesh.View{}, parts: compile.NewOffline()}, nil
}

// eachFile reads the files of a directory that hold objects, in the order of their names, not its subdirectories.
func eachFile(name string, each func(path string, data []byte) error) error {
	entries, err := os.ReadDir(name)
	if err != nil {
		return err
	}
	if len(entries) > dir.MaxFiles {
		return fmt.Errorf("%s holds more than %d files", name, dir.MaxFiles)
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" && ext != ".json" {
			continue
		}
		path := filepath.Join(name, e.Name())
		data, err := ReadFile(path, mesh.MaxFileBytes)
		if err != nil {
			return err
		}
		if err := each(path, data); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile reads a regular file, or what a link to one means, of at most that many bytes. A pipe or a device is an error: it
// may have no end.
func ReadFile(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0) // a pipe without a writer would block
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return data, err
}

// errNoSidecar is what asking a workload without a sidecar ends with.
var errNoSidecar = errors.New("has no service account, and so no sidecar")

// View is what a workload of the mesh runs on; an error if there is none.
func (m *Mesh) view(name string) (*mesh.View, error) {
	if v := m.views[name]; v != nil {
		return v, nil
	}
	namespace, workload, _ := strings.Cut(name, "/")
	v, ok := m.snapshot.View(namespace, workload)
	if ok {
		m.views[name] = v
		return v, nil
	}
	for _, w := range m.snapshot.Workloads() {
		if w.Namespace == namespace && w.Name == workload {
			return nil, fmt.Errorf("%s %w", name, errNoSidecar)
		}
	}
	return nil, fmt.Errorf("there is no WorkloadEntry %q", name)
}

// At is one workload of the mesh.
func (m *Mesh) At(name string) (*At, error) {
	if a := m.at[name]; a != nil {
		return a, nil
	}
	v, err := m.view(name)
	if err != nil {
		return nil, err
	}
	a, err := atView(v, m.parts)
	if err != nil {
		return nil, err
	}
	m.at[name] = a
	return a, nil
}

// atView compiles a view. What is not in files is not asked: external authorizers, and RegoPolicies that reach out.
func atView(v *mesh.View, parts compile.Parts) (*At, error) {
	w, err := compile.Compile(v, parts)
	if err != nil {
		return nil, err
	}
	a := &At{Workload: w, Judge: judge.New(w.Settings, w.Program, w.Tokens)}
	a.Ask = func(c *authz.Custom) bool {
		return c.Authority == nil || c.Ref.Kind == mesh.KindRegoPolicy && !reaches(v, c.Ref)
	}
	for _, r := range v.RequestAuthentication {
		for _, j := range r.Spec.GetJwtRules() {
			a.remoteKeys = a.remoteKeys || j.Jwks == ""
		}
	}
	return a, nil
}

// reaches reports whether a RegoPolicy comes from a bundle, or uses what an operator must allow, such as http.send.
func reaches(v *mesh.View, ref *authz.RuleRef) bool {
	return slices.ContainsFunc(v.Rego, func(p *mesh.Typed[*policy.RegoPolicy]) bool {
		if p.Namespace != ref.Namespace || p.Name != ref.Policy {
			return false
		}
		_, err := rego.New(rego.Config{Namespace: p.Namespace, Name: p.Name, Spec: p.Spec})
		return err != nil || p.Spec.GetBundle() != nil
	})
}

// Why answers a question from the objects alone.
func (m *Mesh) Why(ctx context.Context, q *Question) (*Answer, error) {
	return assemble(ctx, q, func(ctx context.Context, workload string, q *Question) (Reply, error) {
		a, err := m.At(workload)
		if err != nil {
			return Reply{}, err
		}
		return a.Reply(ctx, q), nil
	})
}
