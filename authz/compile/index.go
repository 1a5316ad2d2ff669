package compile

import (
	"math"
	"unsafe"
)

// index finds the rules that may match. Each rule is filed once, under every key of its most selective dimension; what
// is found is verified in full, so that a key in vain costs time and never an answer.
//
// It is immutable. with makes another of it that shares what did not change.
type index struct {
	lookups  [dimensions]lookup
	residual []*rule
	// edits is how many rules were added and removed since it was made whole.
	edits int
}

// dimension is an attribute that rules are filed under.
type dimension uint8

const (
	byPrincipal dimension = iota
	byNamespace
	byAccount
	byPath
	byHost
	byMethod
	byRequestPrincipal
	dimensions
)

// lookup is the buckets of one dimension.
type lookup struct {
	used           bool
	exact          map[string][]*rule
	prefix, suffix *radix
}

// indexKey is what rules are filed under: a literal, and how it stands in the attribute.
type indexKey struct {
	dim  dimension
	kind kind // exact, prefix or suffix
	text string
}

func newIndex(rules []*rule) *index {
	candidates := make([][]keySet, len(rules))
	frequency := make(map[indexKey]int, 2*len(rules))
	for i, r := range rules {
		candidates[i] = r.keySets()
		for _, c := range candidates[i] {
			for _, k := range c {
				frequency[k]++
			}
		}
	}
	x := &index{}
	for i, r := range rules {
		var best keySet
		cost := math.MaxInt
		for _, c := range candidates[i] {
			if n := c.cost(frequency, len(rules)); n < cost {
				best, cost = c, n
			}
		}
		if best == nil {
			x.residual = append(x.residual, r)
			continue
		}
		for _, k := range best {
			x.lookups[k.dim].add(k, r)
		}
	}
	return x
}

// cost estimates how many rules stand under the worst key of a set. A one-byte prefix or suffix matches nearly all.
func (s keySet) cost(frequency map[indexKey]int, all int) int {
	worst := 0
	for _, k := range s {
		n := frequency[k]
		if k.kind != exact {
			n *= 2
			if len(k.text) <= 1 {
				n = 2 * all
			}
		}
		worst = max(worst, n)
	}
	return worst
}

func (l *lookup) add(k indexKey, r *rule) {
	l.used = true
	switch k.kind {
	case exact:
		if l.exact == nil {
			l.exact = map[string][]*rule{}
		}
		l.exact[k.text] = appendOnce(l.exact[k.text], r)
	case prefix:
		if l.prefix == nil {
			l.prefix = &radix{}
		}
		l.prefix.add(k.text, r)
	case suffix:
		if l.suffix == nil {
			l.suffix = &radix{backwards: true}
		}
		l.suffix.add(k.text, r)
	}
}

// appendOnce keeps a rule with two equal keys from standing twice in a bucket.
func appendOnce(bucket []*rule, r *rule) []*rule {
	if n := len(bucket); n > 0 && bucket[n-1] == r {
		return bucket
	}
	return append(bucket, r)
}

func (l *lookup) first(s string, f *facts, best *rule) *rule {
	if s == "" {
		return best // a key stands for a positive field, which an absent attribute fails
	}
	if l.exact != nil {
		best = scan(l.exact[s], f, best)
	}
	if l.prefix != nil {
		best = l.prefix.first(s, f, best)
	}
	if l.suffix != nil {
		best = l.suffix.first(s, f, best)
	}
	return best
}

func (x *index) first(f *facts) *rule {
	var best *rule
	for d := range x.lookups {
		l := &x.lookups[d]
		if !l.used {
			continue
		}
		switch dimension(d) {
		case byPrincipal:
			best = l.first(f.principal, f, best)
		case byNamespace:
			best = l.first(f.namespace, f, best)
		case byAccount:
			best = l.firstAccount(f, best)
		case byPath:
			best = l.first(f.canonical, f, best)
			if f.ambiguous && f.wide {
				best = l.first(f.decoded, f, best)
			}
		case byHost:
			best = l.firstHost(f, best)
		case byMethod:
			best = l.first(f.method, f, best)
		case byRequestPrincipal:
			best = l.firstRequestPrincipal(f, best)
		}
	}
	return scan(x.residual, f, best)
}

// maxHost is the longest host that is looked up: the longest name of DNS with a port. Longer ones aren't filed.
const maxHost = 253 + len(":65535")

// firstHost looks up the readings of the host that wide rules match by.
func (l *lookup) firstHost(f *facts, best *rule) *rule {
	best = l.firstReading(f.authority, f, best)
	if !f.wide {
		return best
	}
	portless, dotless := f.hosts()
	if portless != f.authority {
		best = l.firstReading(portless, f, best)
	}
	if dotless != portless {
		best = l.firstReading(dotless, f, best)
	}
	return best
}

func (l *lookup) firstReading(s string, f *facts, best *rule) *rule {
	if s == "" {
		return best
	}
	if len(s) > maxHost {
		lower := make([]byte, len(s)) // beyond every limit of the corridor, and still judged
		return l.first(lowered(lower, s), f, best)
	}
	var buffer [maxHost]byte
	return l.first(lowered(buffer[:], s), f, best)
}

// lowered is s in ASCII lower case, in buffer, which the result must not outlive.
func lowered(buffer []byte, s string) string {
	for i := range len(s) {
		buffer[i] = asciiLower(s[i])
	}
	return unsafe.String(&buffer[0], len(s))
}

// firstAccount looks NAMESPACE/NAME up, which is how accounts are filed.
func (l *lookup) firstAccount(f *facts, best *rule) *rule {
	if f.namespace == "" || l.exact == nil {
		return best
	}
	var buffer [512]byte
	name := append(buffer[:0], f.namespace...)
	name = append(name, '/')
	name = append(name, f.name...)
	return scan(l.exact[string(name)], f, best)
}

// firstRequestPrincipal looks ISSUER/SUBJECT up. Longer ones than maxPrincipal are joined in memory of their own.
func (l *lookup) firstRequestPrincipal(f *facts, best *rule) *rule {
	var buffer [maxPrincipal]byte
	name := joinPrincipal(buffer[:0], f.token)
	if len(name) == 0 {
		return best
	}
	return l.first(unsafe.String(&name[0], len(name)), f, best)
}
