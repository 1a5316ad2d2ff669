package rego

import (
	"strconv"
)

// inode is a part of the input as native code sees it: an object that is only looked into, or a value. What has no
// inode is not lowered.
type inode struct {
	kids map[string]*inode
	// get is the value; nil for an object.
	get func(f *frame) value
	// there reports whether an object is part of this input; nil if it always is.
	there func(f *frame) bool
	// headers says that members are header fields.
	headers bool
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
		return value{kind: text, s: f.path()}
	}
	s, ok := header(f.c, f.r, name, f.decoded)
	if !ok {
		return value{kind: undefined}
	}
	return value{kind: text, s: s}
}

func leaf(get func(f *frame) string) *inode {
	return &inode{get: func(f *frame) value { return textOf(get(f)) }}
}

func members(kids map[string]*inode) *inode { return &inode{kids: kids} }

// ofRequest is a leaf below attributes.request or the token: absent on a TCP connection.
func ofRequest(get func(f *frame) value) *inode {
	return &inode{get: func(f *frame) value {
		if f.r == nil {
			return value{kind: undefined}
		}
		return get(f)
	}}
}

func ofToken(get func(f *frame) value) *inode {
	return ofRequest(func(f *frame) value {
		if f.r.Token == nil {
			return value{kind: undefined}
		}
		return get(f)
	})
}

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
		"parsed_path": ofRequest(func(f *frame) value {
			return value{kind: path, hi: int32(len(f.segments()))}
		}),
		"token": tokenTree(),
	})
}

func httpTree() *inode {
	str := func(get func(f *frame) string) *inode {
		return ofRequest(func(f *frame) value { return textOf(get(f)) })
	}
	return &inode{there: isHTTP, kids: map[string]*inode{
		"method":   str(func(f *frame) string { return f.r.Method }),
		"host":     str(func(f *frame) string { return f.r.Host }),
		"scheme":   str(func(f *frame) string { return scheme(f.c) }),
		"protocol": str(func(f *frame) string { return protocol(f.r) }),
		"path":     str(func(f *frame) string { return f.path() }),
		"headers":  {there: isHTTP, headers: true},
	}}
}

func tokenTree() *inode {
	str := func(get func(f *frame) string) *inode {
		return ofToken(func(f *frame) value { return textOf(get(f)) })
	}
	return &inode{there: hasToken, kids: map[string]*inode{
		"issuer":    str(func(f *frame) string { return f.r.Token.Issuer }),
		"subject":   str(func(f *frame) string { return f.r.Token.Subject }),
		"principal": str(func(f *frame) string { return f.r.Token.Principal() }),
		"audiences": ofToken(func(*frame) value { return value{kind: audiences} }),
		"claims":    ofToken(func(f *frame) value { return value{kind: claim, p: f.r.Token.Claims} }),
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
