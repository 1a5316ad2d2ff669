package rego

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// author writes modules at random, each fond of a few forms and of some size, so that one form is often piled on another.
type author struct {
	*rand.Rand
	fond         []int
	rules, exprs int
	depth        int
	vars         int
}

func newAuthor(seed uint64) *author {
	a := &author{Rand: rand.New(rand.NewPCG(seed, 1))}
	for range 1 + a.IntN(4) {
		a.fond = append(a.fond, a.IntN(14))
	}
	a.rules = 1 << a.IntN(9)
	a.exprs = 1 << a.IntN(7)
	a.depth = 1 + a.IntN(6)
	return a
}

func (a *author) module() string {
	var out strings.Builder
	out.WriteString("package m\nallow if r0\n")
	for i := range a.rules {
		a.vars = 0
		name := fmt.Sprintf("r%d", i)
		value := a.term(i, a.depth)
		switch a.IntN(6) {
		case 0:
			fmt.Fprintf(&out, "%s := %s\n", name, value)
			continue
		case 1:
			fmt.Fprintf(&out, "%s := %s if {\n", name, value)
		case 2:
			fmt.Fprintf(&out, "%s contains %s if {\n", name, value)
		case 3:
			fmt.Fprintf(&out, "%s[%d] := %s if {\n", name, a.IntN(9), value)
		default:
			fmt.Fprintf(&out, "%s if {\n", name)
		}
		var body []string
		for range a.exprs {
			body = append(body, a.expr(i, a.depth))
		}
		if a.IntN(2) == 0 {
			a.Shuffle(len(body), func(i, j int) { body[i], body[j] = body[j], body[i] })
		}
		out.WriteString(strings.Join(body, "\n") + "\n}\n")
	}
	fmt.Fprintf(&out, "r%d := [1]\n", a.rules)
	return out.String()
}

func (a *author) local() string {
	if a.vars == 0 {
		return "input.b"
	}
	return fmt.Sprintf("x%d", max(0, a.vars-1-a.IntN(4)))
}

func (a *author) expr(rule, depth int) string {
	v := fmt.Sprintf("x%d", a.vars)
	switch a.IntN(8) {
	case 0:
		return fmt.Sprintf("%s == %s", a.term(rule, depth), a.term(rule, depth))
	case 1:
		return fmt.Sprintf("not %s", a.term(rule, 0))
	case 2:
		return fmt.Sprintf("every y in %s { y != %s }", a.term(rule, depth-1), a.term(rule, 0))
	case 3:
		return fmt.Sprintf("%s with input.b as %s", a.term(rule, 0), a.term(rule, 0))
	default:
		text := fmt.Sprintf("%s = %s", v, a.term(rule, depth))
		a.vars++
		return text
	}
}

func (a *author) term(rule, depth int) string {
	form := a.fond[a.IntN(len(a.fond))]
	if depth <= 0 {
		form = 9 + a.IntN(5)
	}
	t := func() string { return a.term(rule, depth-1) }
	switch form {
	case 0:
		return fmt.Sprintf("[y | y = %s]", t())
	case 1:
		return fmt.Sprintf("{y | some y in %s}", t())
	case 2:
		return fmt.Sprintf("{1: y | y = %s; y != %s}", t(), t())
	case 3:
		return fmt.Sprintf("[%s, %s]", t(), t())
	case 4:
		return fmt.Sprintf(`{"a": %s, "b": %s}`, t(), t())
	case 5:
		return fmt.Sprintf("{%s, [%s]}", t(), t())
	case 6:
		return fmt.Sprintf("count([%s])", t())
	case 7:
		return fmt.Sprintf("$\"a{%s}\"", t())
	case 8:
		return fmt.Sprintf("r%d[%s]", min(a.rules, rule+1+a.IntN(4)), t())
	case 9:
		return a.local()
	case 10:
		return fmt.Sprintf("r%d", min(a.rules, rule+1+a.IntN(3)))
	case 11:
		return fmt.Sprintf("r%d", rule+1+a.IntN(a.rules-rule))
	case 12:
		return fmt.Sprintf("%d", a.IntN(1000))
	}
	return fmt.Sprintf("input.a%d", a.IntN(100))
}

// processorTime is what this process has used, so that a busy machine proves nothing.
func processorTime(t *testing.T) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// FuzzCompile looks for a policy that is accepted, or refused, only after long work: of a text, or of a module that is written at
// random where the text is empty. Only fuzzing looks at the time.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, "")
	}
	f.Add(uint64(0), body("x := "+wrapped("[y | y := ", "input.a", "]", 14)))
	f.Add(uint64(0), linked(300, 8))
	timed := flag.Lookup("test.fuzz").Value.String() != ""
	f.Fuzz(func(t *testing.T, seed uint64, text string) {
		if text == "" {
			text = newAuthor(seed).module()
		}
		if len(text) > 64<<10 {
			return // parsing alone takes its time
		}
		before := processorTime(t)
		err := try(text)
		if took := processorTime(t) - before; timed && took > 4*time.Second {
			t.Errorf("%d bytes (seed %d) took %s: %.200v", len(text), seed, took, err)
		}
	})
}
