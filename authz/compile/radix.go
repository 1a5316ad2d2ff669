package compile

import (
	"bytes"
	"strings"
)

// radix is a compressed tree of literals that finds every one a string begins with; backwards, that it ends with.
type radix struct {
	root      node
	backwards bool
}

// node is reached by a literal; rules are filed under exactly that literal.
type node struct {
	rules []*rule
	// heads are the first bytes of the children's labels, in the order of edges.
	heads []byte
	edges []edge
}

type edge struct {
	label string
	to    *node
}

func (t *radix) add(literal string, r *rule) {
	n := &t.root
	for literal != "" {
		n, literal = t.step(n, literal)
	}
	n.rules = appendOnce(n.rules, r)
}

// step goes one edge down, made or split as needed, and returns what is left of the literal.
func (t *radix) step(n *node, literal string) (*node, string) {
	head := t.head(literal)
	for i, h := range n.heads {
		if h != head {
			continue
		}
		e := &n.edges[i]
		shared := t.shared(e.label, literal)
		if shared < len(e.label) {
			near, far := t.split(e.label, shared)
			e.to = &node{heads: []byte{t.head(far)}, edges: []edge{{far, e.to}}}
			e.label = near
		}
		_, rest := t.split(literal, shared)
		return e.to, rest
	}
	to := &node{}
	n.heads = append(n.heads, head)
	n.edges = append(n.edges, edge{literal, to})
	return to, ""
}

func (t *radix) head(s string) byte {
	if t.backwards {
		return s[len(s)-1]
	}
	return s[0]
}

// shared is how many bytes two strings have in common from where the tree reads.
func (t *radix) shared(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) {
		x, y := a[n], b[n]
		if t.backwards {
			x, y = a[len(a)-1-n], b[len(b)-1-n]
		}
		if x != y {
			break
		}
		n++
	}
	return n
}

// split cuts a string after n bytes from where the tree reads.
func (t *radix) split(s string, n int) (near, far string) {
	if t.backwards {
		return s[len(s)-n:], s[:len(s)-n]
	}
	return s[:n], s[n:]
}

// first is the earlier of best and the first rule that matches among those filed under a literal of s.
func (t *radix) first(s string, f *facts, best *rule) *rule {
	n := &t.root
	for {
		best = scan(n.rules, f, best)
		if s == "" || len(n.heads) == 0 {
			return best
		}
		i := bytes.IndexByte(n.heads, t.head(s))
		if i < 0 {
			return best
		}
		e := &n.edges[i]
		if t.backwards {
			if !strings.HasSuffix(s, e.label) {
				return best
			}
			s = s[:len(s)-len(e.label)]
		} else {
			if !strings.HasPrefix(s, e.label) {
				return best
			}
			s = s[len(e.label):]
		}
		n = e.to
	}
}
