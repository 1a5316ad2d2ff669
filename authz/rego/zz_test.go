package rego
import ("testing";"fmt";"time")
func TestZZ(t *testing.T){
 for _, n := range []string{"spiffe.rego","globs.rego","every.rego","tricky.rego"} {
  p := corpus(t)[n]
  for _, m := range p.current.Load().compiler.Modules { for _, r := range m.Rules { fmt.Println(r) } }
 }
 p := corpus(t)
 for _, n := range []string{"spiffe.rego","comprehension.rego"} {
  s := p[n].current.Load()
  c := peer(t,"web")
  _ = c; _ = s; _ = time.Now
 }
}
