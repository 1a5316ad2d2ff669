package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/mesh"
)

// Effect says what an authored object does.
type Effect uint8

// The effects.
const (
	// InForce: as it is written now.
	InForce Effect = iota
	// LastGood: it is refused as it is written now, and its last good version goes on.
	LastGood
	// Quarantined: it is refused, and what stands in for it denies what it selects.
	Quarantined
	// Absent: it is refused, and nothing stands in for it.
	Absent
)

// Authored is one authored object as it is in the cluster, and what became of it. Immutable.
type Authored struct {
	mesh.Key
	Resource schema.GroupVersionResource
	UID      types.UID
	// Generation is that of what was judged.
	Generation int64
	Effect     Effect
	// Problems are those of this object, with fields and without positions: there is no file.
	Problems []mesh.Problem
	// Object is it in the last snapshot: as written, its last good version or its quarantine; nil if it is absent.
	Object *mesh.Object
}

// record is what is known of one authored object that exists. It belongs to Run's goroutine.
type record struct {
	uid        types.UID
	generation int64
	// text is what was judged, as JSON; newest is it, nil if it is refused; problems are those of reading it.
	text     []byte
	newest   *mesh.Object
	problems []mesh.Problem
	// last is the version that stood last, nil if none did, and lastText its JSON.
	last     *mesh.Object
	lastText []byte
}

// authored is what was told last of authored objects.
type authored struct {
	mu      sync.Mutex // guards what follows
	all     []Authored
	byKey   map[mesh.Key]*mesh.Object
	changed chan struct{} // closed when all was replaced
}

func (a *authored) set(all []Authored) {
	byKey := make(map[mesh.Key]*mesh.Object, len(all))
	for i := range all {
		byKey[all[i].Key] = all[i].Object
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all, a.byKey = all, byKey
	close(a.changed)
	a.changed = make(chan struct{})
}

// Authored are the authored objects of the namespaces of our revision, by namespace, with what was found at the last snapshot,
// and a channel that is closed when they were replaced. The slice must not be modified.
func (s *Source) Authored() ([]Authored, <-chan struct{}) {
	s.authored.mu.Lock()
	defer s.authored.mu.Unlock()
	return s.authored.all, s.authored.changed
}

// Standing is what is in force of an authored object of our revision: as written, its last good version or its quarantine; nil
// for nothing.
func (s *Source) Standing(key mesh.Key) *mesh.Object {
	s.authored.mu.Lock()
	defer s.authored.mu.Unlock()
	return s.authored.byKey[key]
}

// Object is the newest version of an authored object that is known, status included; false if there is none. It must not be
// modified.
func (s *Source) Object(key mesh.Key) (*unstructured.Unstructured, bool) {
	if authoredKinds[what(key.Kind)] != key.Group {
		return nil, false
	}
	u, _ := s.kinds.get(what(key.Kind), key.Namespace+"/"+key.Name)
	return u, u != nil
}

// written is what of an object is authored: everything but status and the bookkeeping of the API server.
func written(u *unstructured.Unstructured) map[string]any {
	out := make(map[string]any, len(u.Object))
	for k, v := range u.Object {
		if k != "status" && k != "metadata" {
			out[k] = v
		}
	}
	meta := map[string]any{"name": u.GetName(), "namespace": u.GetNamespace()}
	if labels := u.GetLabels(); len(labels) > 0 {
		meta["labels"] = labels
	}
	if annotations := u.GetAnnotations(); len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	if at := u.GetCreationTimestamp(); !at.IsZero() {
		meta["creationTimestamp"] = at.UTC().Format(time.RFC3339)
	}
	out["metadata"] = meta
	return out
}

// judge reads one authored object as a file with it would be read. before is what was known of it, nil for nothing; it is the
// result if nothing authored changed.
func (s *Source) judge(key mesh.Key, u *unstructured.Unstructured, before *record) *record {
	text, err := json.Marshal(written(u))
	r := &record{uid: u.GetUID(), generation: u.GetGeneration(), text: text}
	switch {
	case before != nil && before.uid == r.uid:
		if err == nil && bytes.Equal(before.text, text) {
			before.generation = r.generation
			return before
		}
		r.last, r.lastText = before.last, before.lastText
	case before == nil:
		r.last, r.lastText = s.good.restored(key, r.uid)
	}
	if err != nil {
		r.problems = []mesh.Problem{{Key: key, Message: fmt.Sprintf("encoding it: %v", err)}}
		return r
	}
	r.newest, r.problems = s.parse(key, text)
	return r
}

// parse reads the JSON of one object; nil if it is refused. What is said of a file as such is said of the object.
func (s *Source) parse(key mesh.Key, text []byte) (*mesh.Object, []mesh.Problem) {
	objects, problems := mesh.Parse("", text, mesh.ParseOptions{TrustDomain: s.cfg.TrustDomain, RootNamespace: s.cfg.RootNamespace, Judge: s.cfg.Judge})
	for i := range problems {
		problems[i].Position = mesh.Position{}
		if problems[i].Key == (mesh.Key{}) {
			problems[i].Key = key
		}
	}
	for _, o := range objects {
		if o.Key == key {
			// Without positions: the text is nobody's file.
			meta := o.Meta
			meta.Position = mesh.Position{}
			return &mesh.Object{Meta: meta, Spec: o.Spec}, problems
		}
	}
	return nil, problems
}

// judgeConfig reads the ConfigMap of the MeshConfig; nil if it does not exist.
func (s *Source) judgeConfig(before *record) *record {
	o, ok, err := s.config.GetIndexer().GetByKey(s.cfg.RootNamespace + "/" + configName)
	if err != nil || !ok {
		return nil
	}
	c, ok := o.(*corev1.ConfigMap)
	if !ok {
		return nil
	}
	key := s.configKey()
	data := map[string]string{}
	for k, v := range c.Data {
		if k == "mesh" || k == "meshNetworks" {
			data[k] = v
		}
	}
	return s.judge(key, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": key.Kind, "data": data,
		"metadata": map[string]any{"name": c.Name, "namespace": c.Namespace, "uid": string(c.UID),
			"creationTimestamp": c.CreationTimestamp.UTC().Format(time.RFC3339)}}}, before)
}

func (s *Source) configKey() mesh.Key {
	return mesh.Key{Group: mesh.GroupCore, Kind: mesh.KindConfigMap, Namespace: s.cfg.RootNamespace, Name: configName}
}

// rooted is the object of the MeshConfig with the root namespace that the command line says: that is where it was read. Of one
// object it is one object, so that a snapshot that differs in something else does not seem to differ in this for every proxy.
func (s *Source) rooted(o *mesh.Object) *mesh.Object {
	if s.cfg.RootNamespace == mesh.DefaultRootNamespace && o == nil {
		return nil
	}
	if s.root == nil || s.rootOf != o {
		s.root, s.rootOf = s.withRoot(o), o
	}
	return s.root
}

func (s *Source) withRoot(o *mesh.Object) *mesh.Object {
	config := &meshconfig.MeshConfig{}
	out := &mesh.Object{Meta: mesh.Meta{Key: s.configKey(), Version: "v1"}}
	if o != nil {
		out.Meta = o.Meta
		if c, ok := o.Spec.(*meshconfig.MeshConfig); ok {
			config = proto.CloneOf(c)
		}
	}
	if config.RootNamespace == "" {
		config.RootNamespace = s.cfg.RootNamespace
	}
	out.Spec = config
	return out
}
