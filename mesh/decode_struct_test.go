package mesh_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// TestFreeFormData reads data of a RegoPolicy as the JSON that it stands for, with the positions in the file.
func TestFreeFormData(t *testing.T) {
	const text = `apiVersion: policy.signet.dev/v1alpha1
kind: RegoPolicy
metadata: {name: a}
spec:
  query: data.a.b
  module: |
    package a

    b := "x: y" # | > {}
  data:
    text: plain
    quoted: "on"
    block: |
      two
      lines
    date: 2026-01-02
    numbers: [0, -7, 1.5, 1e3, 9007199254740992, -9007199254740992]
    truth: [true, false, True]
    nothing: null
    empty: {a: {}, b: []}
    "a.b": {"yes": 1}
`
	const want = `{"text":"plain","quoted":"on","block":"two\nlines\n","date":"2026-01-02","numbers":[0,-7,1.5,1000,9007199254740992,-9007199254740992],
 "truth":[true,false,true],"nothing":null,"empty":{"a":{},"b":[]},"a.b":{"yes":1}}`
	o := parse(t, text)[0]
	p, ok := o.Spec.(*policy.RegoPolicy)
	if !ok || p.GetModule() != "package a\n\nb := \"x: y\" # | > {}\n" {
		t.Errorf("module is %q", p.GetModule())
	}
	raw, err := protojson.Marshal(p.GetData())
	if err != nil {
		t.Fatal(err)
	}
	var got, wanted any
	if json.Unmarshal(raw, &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil || !reflect.DeepEqual(got, wanted) {
		t.Errorf("got %s, want %s", raw, want)
	}
	for field, line := range map[string]int{"spec.data.numbers": 17, "spec.data.empty.b": 20, "spec.data": 10, "spec.module": 6} {
		if f := mesh.Fault(o, field, "x"); f.Position.Line != line {
			t.Errorf("%s stands at %v, not in line %d", field, f.Position, line)
		}
	}
}
