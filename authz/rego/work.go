package rego

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of a policy's text. OPA's compiler takes time that grows without measure with some of them and can't be stopped, so
// what is beyond them is never given to it.
const (
	// MaxNesting is how deep brackets may nest in a module.
	MaxNesting = 64
	// MaxClosures is how deep comprehensions, every, not {} and the expressions of template strings may nest in each other.
	MaxClosures = 5
	// MaxSteps is how many expressions, calls, variables after some, parameters and with modifiers a rule may have, those of its
	// comprehensions too.
	MaxSteps = 200
	// MaxElse is how many else branches a rule may have.
	MaxElse = 200
	// maxWork is how much work compiling all modules may be, by estimate: a unit is about a microsecond.
	maxWork = 1_000_000
)

// What the estimate charges, in units, found by measuring OPA.
const (
	workOfRule = 50
	workOfStep = 20
	// workOfClosure is for a step of a comprehension; each level of nesting has all within it checked three times more.
	workOfClosure = 10
	// workOfEdge is for one rule that another mentions, workOfReach for one that it depends on, directly or not.
	workOfEdge, workOfReach = 4, 2
)

func refusal(at *ast.Location, format string, args ...any) *ast.Error {
	return ast.NewError(ast.CompileErr, at, format, args...)
}

// checkNesting looks at the brackets of a text, before the parser does.
func checkNesting(s source) error {
	var open []byte // brackets, and the quotes of template strings
	row, start := 1, 0
	for i := 0; i < len(s.text); i++ {
		c, top := s.text[i], byte(0)
		if len(open) > 0 {
			top = open[len(open)-1]
		}
		switch text := top == '"' || top == '`'; {
		case c == '\n':
			row, start = row+1, i+1
		case text && c == '\\' && (top == '"' || strings.HasPrefix(s.text[i+1:], "{")):
			i++
		case text && c == top, !text && (c == ')' || c == ']' || c == '}') && len(open) > 0:
			open = open[:len(open)-1]
		case text && c != '{':
		case c == '#':
			for i+1 < len(s.text) && s.text[i+1] != '\n' {
				i++
			}
		case (c == '"' || c == '`') && (i == 0 || s.text[i-1] != '$'):
			end := afterString(s.text, i)
			if lines := strings.Count(s.text[i:end], "\n"); lines > 0 {
				row, start = row+lines, i+strings.LastIndexByte(s.text[i:end], '\n')+1
			}
			i = end
		case strings.IndexByte("([{\"`", c) >= 0:
			if open = append(open, c); len(open) > MaxNesting {
				at := ast.NewLocation(nil, s.name, row, i-start+1)
				return opaFaults([]source{s}, nil, ast.Errors{refusal(at, "brackets nest deeper than %d", MaxNesting)})
			}
		}
	}
	return nil
}

// afterString is where the string that begins at i ends: at its closing quote or, for one in double quotes, before the end of
// its line.
func afterString(text string, i int) int {
	quote := text[i]
	for j := i + 1; j < len(text); j++ {
		switch c := text[j]; {
		case c == quote:
			return j
		case quote == '"' && c == '\\':
			j++
		case quote == '"' && c == '\n':
			return j - 1
		}
	}
	return len(text)
}

// budget counts the estimated work of one compilation.
type budget struct{ left int }

func newBudget() *budget { return &budget{left: maxWork} }

// charge takes from the budget; the error names who went beyond it.
func (b *budget) charge(at *ast.Location, n int, what string, args ...any) *ast.Error {
	if b.left -= n; b.left >= 0 {
		return nil
	}
	b.left = 0
	return refusal(at, "compiling the policy is too much work (limit %d): %s", maxWork, fmt.Sprintf(what, args...))
}

// modules judges what was parsed, in the order of the modules' names.
func (b *budget) modules(modules map[string]*ast.Module) *ast.Error {
	names := make([]string, 0, len(modules))
	for name := range modules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, rule := range modules[name].Rules {
			if err := b.rule(rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// rule judges a rule and its else branches.
func (b *budget) rule(rule *ast.Rule) *ast.Error {
	branches := 0
	for r := rule; r != nil; r = r.Else {
		if branches++; branches > MaxElse+1 {
			return refusal(r.Loc(), "the rule has more than %d else branches", MaxElse)
		}
		c := counter{}
		c.rule(r)
		if c.tooDeep != nil {
			return refusal(c.tooDeep, "comprehensions, every, not {} and template strings nest deeper than %d, or brackets than %d", MaxClosures, MaxNesting)
		}
		if c.steps > MaxSteps {
			return refusal(r.Loc(), "the rule has %d expressions, calls, variables after some, parameters and with modifiers, more than %d: split it", c.steps, MaxSteps)
		}
		// A body is put into an order that binds variables first: that takes the cube of its length.
		work := workOfRule + c.terms + workOfStep*c.steps + c.steps*c.steps*c.steps/32 + workOfClosure*c.closures + 2*branches
		if err := b.charge(r.Loc(), work, "the modules have too many rules, expressions or values"); err != nil {
			return err
		}
	}
	return b.charge(rule.Loc(), 2*branches*branches, "the rules have too many else branches")
}

// counter measures one rule without its else branches.
type counter struct {
	terms, steps int
	// closures counts steps in closures, each 3^depth times.
	closures int
	// depth is that of closures here, nesting that of arrays, objects, sets and references; tooDeep is where one went too far.
	depth, nesting int
	tooDeep        *ast.Location
}

func (c *counter) rule(r *ast.Rule) {
	c.steps = len(r.Head.Args)
	v := ast.NewGenericVisitor(c.visit)
	v.Walk(r.Head)
	v.Walk(r.Body)
}

// within walks the parts of a closure.
func (c *counter) within(at *ast.Location, parts ...any) bool {
	if c.depth++; c.depth > MaxClosures {
		if c.tooDeep == nil {
			c.tooDeep = at
		}
	} else {
		before := c.steps
		v := ast.NewGenericVisitor(c.visit)
		for _, part := range parts {
			v.Walk(part)
		}
		c.closures += (c.steps - before + 1) * int(math.Pow(3, float64(c.depth)))
	}
	c.depth--
	return true
}

// composite walks what a composite holds.
func (c *counter) composite(t *ast.Term) bool {
	if c.nesting++; c.nesting <= MaxNesting {
		ast.NewGenericVisitor(c.visit).Walk(t.Value)
	} else if c.tooDeep == nil {
		c.tooDeep = t.Loc()
	}
	c.nesting--
	return true
}

func (c *counter) visit(x any) bool {
	switch x := x.(type) {
	case *ast.Expr:
		c.steps += 1 + len(x.With)
		if every, ok := x.Terms.(*ast.Every); ok {
			ast.NewGenericVisitor(c.visit).Walk(every.Domain)
			return c.within(x.Loc(), every.Body)
		}
		if some, ok := x.Terms.(*ast.SomeDecl); ok {
			c.steps += len(some.Symbols)
		}
		if not, ok := x.Terms.(*ast.Not); ok {
			return c.within(x.Loc(), not.Body)
		}
	case *ast.Term:
		c.terms++
		switch v := x.Value.(type) {
		case *ast.Array, ast.Object, ast.Set:
			return c.composite(x)
		case ast.Call:
			c.steps++
		case ast.Ref:
			if slices.ContainsFunc(v[1:], func(t *ast.Term) bool { return !ast.IsConstant(t.Value) }) {
				c.steps++
				return c.composite(x)
			}
		case *ast.ArrayComprehension:
			return c.within(x.Loc(), v.Term, v.Body)
		case *ast.SetComprehension:
			return c.within(x.Loc(), v.Term, v.Body)
		case *ast.ObjectComprehension:
			return c.within(x.Loc(), v.Key, v.Value, v.Body)
		case *ast.TemplateString:
			for _, part := range v.Parts {
				c.within(x.Loc(), part)
			}
			return true
		}
	}
	return false
}

// stages has the compiler ask for what can be told only between its own steps.
func (b *budget) stages(c *ast.Compiler) *ast.Compiler {
	for after, check := range map[ast.StageID]ast.CompilerStage{
		ast.StageSetRuleTree: b.mentions, ast.StageSetGraph: b.dependencies, ast.StageCheckRecursion: b.types,
	} {
		c = c.WithStageAfterID(after, ast.CompilerStageDefinition{Name: "Bound" + string(after), MetricName: "bound", Stage: check})
	}
	return c
}

// allRules calls f for all rules and their else branches, in the order of the modules' names, until it fails.
func allRules(c *ast.Compiler, f func(*ast.Rule) *ast.Error) *ast.Error {
	names := make([]string, 0, len(c.Modules))
	for name := range c.Modules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, rule := range c.Modules[name].Rules {
			for r := rule; r != nil; r = r.Else {
				if err := f(r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// mentions counts the edges that the graph of rules will have, and the pairs of a rule and one below it: they may conflict.
func (b *budget) mentions(c *ast.Compiler) (err *ast.Error) {
	below := map[*ast.TreeNode]int{}
	c.RuleTree.DepthFirst(func(node *ast.TreeNode) bool {
		if n := len(node.Values); n > 0 && err == nil {
			err = b.charge(node.Values[0].Loc(), n*(size(node, below)-n), "too many rules are below others")
		}
		return err != nil
	})
	if err != nil {
		return err
	}
	return allRules(c, func(r *ast.Rule) (err *ast.Error) {
		ast.NewGenericVisitor(func(x any) bool {
			ref, ok := x.(ast.Ref)
			if !ok || err != nil || !ref[0].Equal(ast.DefaultRootDocument) {
				return x == r.Else && r.Else != nil || err != nil
			}
			node, n := c.RuleTree, 0
			for _, t := range ref {
				if t != ref[0] && !ast.IsConstant(t.Value) {
					break
				}
				if node = node.Child(t.Value); node == nil {
					break
				}
				n += len(node.Values)
			}
			if node != nil {
				n += size(node, below)
			}
			err = b.charge(r.Loc(), workOfEdge*n, "the rules mention each other too often")
			return false
		}).Walk(r)
		return err
	})
}

// size counts the rules at a node and below it.
func size(node *ast.TreeNode, known map[*ast.TreeNode]int) int {
	n, ok := known[node]
	if !ok {
		n = len(node.Values)
		for _, child := range node.Children {
			n += size(child, known)
		}
		known[node] = n
	}
	return n
}

// dependencies follows the graph from each rule to all that it depends on, as the search for recursion does.
func (b *budget) dependencies(c *ast.Compiler) *ast.Error {
	return allRules(c, func(r *ast.Rule) *ast.Error {
		seen := map[*ast.Rule]bool{r: true}
		for open := []*ast.Rule{r}; len(open) > 0; {
			next := open[len(open)-1]
			open = open[:len(open)-1]
			edges := c.Graph.Dependencies(next)
			if err := b.charge(r.Loc(), workOfReach*(1+len(edges)), "the rules depend on too many others, directly and through others"); err != nil {
				return err
			}
			for dep := range edges {
				if rule := dep.(*ast.Rule); !seen[rule] {
					seen[rule] = true
					open = append(open, rule)
				}
			}
		}
		return nil
	})
}
