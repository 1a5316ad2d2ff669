package rego

import (
	"strconv"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
)

// inode is a part of the input as native code sees it: an object that is only looked into, or a value. What has no
// inode is not lowered.
type inode struct {
	kids map[string]*inode
	// get is the value; nil for an object.
	get func(f *frame) value
	// there reports whether an object is part of this input; nil if it always is.
	there func(f *frame) bool
	// text is set beside get if the value is a string wherever there is one; cost is what it takes.
	text getter
	cost int
	// headers says that members are header fields, segments that it is parsed_path, claims that it is a token's claims.
	headers, segments, claims bool
}

func (n *inode) value(f *frame) value {
	switch {
	case n.get != nil:
		return n.get(f)
	case n.there != nil && !n.there(f):
		return value{kind: undefined}
	}
	return value{kind: node, p: n}
}

// child is a member by a name that is only known now.
func (n *inode) child(f *frame, name string) value {
	if n.headers {
		return headerOf(f, name)
	}
	if kid := n.kids[name]; kid != nil {
		return kid.value(f)
	}
	return f.unsure()
}

func headerOf(f *frame, name string) value {
	if name == ":path" {
		return value{kind: text, s: f.target()}
	}
	s, ok := header(f.c, f.r, name, f.decoded)
	if !ok {
		return value{kind: undefined}
	}
	return value{kind: text, s: s}
}

// leaf is a string that is absent if it is "".
func leaf(get func(f *frame) string) *inode {
	return textLeaf(cheap, func(f *frame) (string, bool) {
		s := get(f)
		return s, s != ""
	})
}

func textLeaf(cost int, get getter) *inode {
	d := textual(get, cost)
	return &inode{get: d.unit, text: get, cost: cost}
}

func members(kids map[string]*inode) *inode { return &inode{kids: kids} }

func isHTTP(f *frame) bool   { return f.r != nil }
func hasToken(f *frame) bool { return f.r != nil && f.r.Token != nil }

// inputTree is the part of the input that native code knows. It says the same as buildInput.
func inputTree() *inode {
	caller := leaf(func(f *frame) string { return principal(f.c) })
	return members(map[string]*inode{
		"attributes": members(map[string]*inode{
			"source":      members(map[string]*inode{"principal": caller, "address": sourceAddress()}),
			"destination": members(map[string]*inode{"address": destinationAddress()}),
			"request":     {there: isHTTP, kids: map[string]*inode{"http": httpTree()}},
		}),
		"source_principal": caller,
		"parsed_path": {segments: true, get: func(f *frame) value {
			if f.r == nil {
				return value{kind: undefined}
			}
			return value{kind: path, hi: int32(len(f.segments()))}
		}},
		"token": tokenTree(),
	})
}

func httpTree() *inode {
	return &inode{there: isHTTP, kids: map[string]*inode{
		"method": textLeaf(1, func(f *frame) (string, bool) {
			if f.r == nil {
				return "", false
			}
			return f.r.Method, f.r.Method != ""
		}),
		"host": textLeaf(1, func(f *frame) (string, bool) {
			if f.r == nil {
				return "", false
			}
			return f.r.Host, f.r.Host != ""
		}),
		"path": textLeaf(cheap, func(f *frame) (string, bool) {
			s := f.target()
			return s, s != ""
		}),
		"scheme":   textLeaf(cheap, func(f *frame) (string, bool) { return scheme(f.c), f.r != nil }),
		"protocol": textLeaf(cheap, func(f *frame) (string, bool) { return protocolOf(f.r), f.r != nil }),
		"headers":  {there: isHTTP, headers: true},
	}}
}

func protocolOf(r *authz.Request) string {
	if r == nil {
		return ""
	}
	return protocol(r)
}

func tokenTree() *inode {
	str := func(cost int, get func(t *jwt.Token) string) *inode {
		return textLeaf(cost, func(f *frame) (string, bool) {
			if !hasToken(f) {
				return "", false
			}
			s := get(f.r.Token)
			return s, s != ""
		})
	}
	return &inode{there: hasToken, kids: map[string]*inode{
		"issuer":    str(cheap, func(t *jwt.Token) string { return t.Issuer }),
		"subject":   str(cheap, func(t *jwt.Token) string { return t.Subject }),
		"principal": str(costClaim, func(t *jwt.Token) string { return t.Principal() }),
		"audiences": {get: func(f *frame) value {
			if !hasToken(f) {
				return value{kind: undefined}
			}
			return value{kind: audiences}
		}},
		"claims": {claims: true, get: func(f *frame) value {
			if !hasToken(f) {
				return value{kind: undefined}
			}
			return value{kind: claim, p: f.r.Token.Claims}
		}},
	}}
}

func sourceAddress() *inode {
	return members(map[string]*inode{"socketAddress": members(map[string]*inode{
		"address": leaf(func(f *frame) string {
			if !f.c.SourceIP.IsValid() {
				return ""
			}
			return f.c.SourceIP.Unmap().String()
		}),
	})})
}

func destinationAddress() *inode {
	return members(map[string]*inode{"socketAddress": members(map[string]*inode{
		"address": leaf(func(f *frame) string {
			if !f.c.DestinationIP.IsValid() {
				return ""
			}
			return f.c.DestinationIP.Unmap().String()
		}),
		"portValue": {get: func(f *frame) value {
			if f.c.DestinationPort == 0 {
				return value{kind: undefined}
			}
			return value{kind: number, s: strconv.Itoa(int(f.c.DestinationPort))}
		}},
	})})
}
