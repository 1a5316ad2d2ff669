package compile

// keySet is keys of one dimension of which a rule needs at least one.
type keySet []indexKey

// keySets are the ways in which a rule can be filed: the dimensions in which every source, or every operation, or one
// condition demands one of a list of literals.
func (r *rule) keySets() []keySet {
	var out []keySet
	for _, groups := range [2][]group{r.from, r.to} {
		if len(groups) == 0 {
			continue
		}
		for i := range groups[0] { // what every group demands, the first does
			d, ok := groups[0][i].attr.dimension()
			if !ok {
				continue
			}
			if s := keysOf(groups, d); s != nil {
				out = append(out, s)
			}
		}
	}
	for i := range r.when {
		d, ok := r.when[i].attr.dimension()
		if !ok {
			continue
		}
		if s := r.when[i].keys(d); s != nil {
			out = append(out, s)
		}
	}
	return out
}

func keysOf(groups []group, d dimension) keySet {
	var out keySet
	for n, g := range groups {
		var s keySet
		for i := range g {
			if s = g[i].keys(d); s != nil {
				break
			}
		}
		if s == nil {
			return nil
		}
		if n == 0 {
			out = s
		} else {
			out = append(out, s...)
		}
	}
	return out
}

// keys are the keys of a clause in a dimension, nil if it has none or if one of its values has no literal.
func (c *clause) keys(d dimension) keySet {
	if own, ok := c.attr.dimension(); !ok || own != d || c.want == nil || c.want.decoded != nil {
		return nil // a path with an escape is compared with either reading by another literal
	}
	out := make(keySet, 0, len(c.want.accounts)+len(c.want.literals)+len(c.want.patterns))
	for _, a := range c.want.accounts {
		out = append(out, indexKey{d, exact, a.namespace + "/" + a.name})
	}
	for literal := range c.want.literals {
		out = append(out, indexKey{d, exact, literal})
	}
	for i := range c.want.patterns {
		p := &c.want.patterns[i]
		k := indexKey{d, p.kind, p.text}
		switch p.kind {
		case present:
			return nil
		case template:
			k.kind = prefix
		}
		if d == byHost && len(p.text) > maxHost {
			return nil
		}
		out = append(out, k)
	}
	return out
}

// dimension is where rules are filed by an attribute, false if nowhere.
func (a attribute) dimension() (dimension, bool) {
	switch a {
	case principal:
		return byPrincipal, true
	case namespace:
		return byNamespace, true
	case account:
		return byAccount, true
	case path:
		return byPath, true
	case host:
		return byHost, true
	case method:
		return byMethod, true
	case requestPrincipal:
		return byRequestPrincipal, true
	}
	return dimensions, false
}
