package rego
import ("testing";"github.com/signet-mesh/signet/authz";"context")
func BenchmarkInput(b *testing.B){
	c := peer(b, "web")
	r := &authz.Request{Method: "GET", Path: "/people/12", Host: "menu", Headers: fields{"x-tier", "gold", "user-agent", "curl"}, Minor: 1}
	for _, name := range []string{"spiffe.rego", "globs.rego", "decision.rego", "comprehension.rego"} {
		p := corpus(b)[name]
		s := p.current.Load()
		b.Run(name+"/input", func(b *testing.B) { b.ReportAllocs(); for b.Loop() { buildInput(s.reads,c,r,false)}})
		in, _ := buildInput(s.reads,c,r,false)
		b.Run(name+"/run", func(b *testing.B) { b.ReportAllocs(); for b.Loop() { p.run(context.Background(), s, in, true)}})
	}
}
