package limit

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/authz"
)

// How the value of a Distinct selector stands in a key.
const (
	oneValue  = 'v'
	noValue   = 'n' // no identity, no address: all such callers share one key
	manyValue = 'm' // a repeated header or parameter: a caller can't choose which of its values counts
)

// appendKey appends what a rule distinguishes a request by, each part with its length, so that no two requests that differ
// have the same key.
func (rl *rule) appendKey(dst []byte, c *authz.Connection, r *authz.Request) []byte {
	for i := range rl.clauses {
		k := &rl.clauses[i]
		if !k.distinct {
			continue
		}
		if k.attribute == bySource {
			dst = appendNetwork(dst, k.block(client(c, r)))
			continue
		}
		value, kind := k.value(c, r)
		dst = binary.AppendUvarint(append(dst, kind), uint64(len(value)))
		dst = append(dst, value...)
	}
	return dst
}

func appendNetwork(dst []byte, p netip.Prefix) []byte {
	if !p.IsValid() {
		return append(dst, noValue)
	}
	address := p.Addr().As16()
	return append(append(dst, oneValue, byte(p.Bits()), byte(p.Addr().BitLen())), address[:]...)
}

// block is what of an address counts: all of it, but of IPv6 the /64, which a client has all of, unless the selector's
// own network is no larger than that.
func (k *clause) block(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() && k.network.Bits() < 64 {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// value is what a Distinct clause of a header, parameter or identity saw.
func (k *clause) value(c *authz.Connection, r *authz.Request) (value string, kind byte) {
	switch k.attribute {
	case byIdentity:
		if !c.Peer.Proven() {
			return "", noValue
		}
		return c.Peer.ID.String(), oneValue
	case byQuery:
		return k.param(r)
	}
	if k.name == authorityHeader {
		return plainHost(r.Host), oneValue
	}
	first, next, ok := firstHeader(r, k.name)
	for more := first; ok; {
		if more != first {
			return "", manyValue
		}
		more, next, ok = r.Headers.HeaderValue(k.name, next)
	}
	return first, oneValue
}

func (k *clause) param(r *authz.Request) (string, byte) {
	first, seen := "", false
	for rest := strings.TrimPrefix(r.Query, "?"); rest != ""; {
		var value string
		var ok bool
		if value, rest, ok = nextParam(rest, k.name); !ok {
			continue
		}
		if seen && value != first {
			return "", manyValue
		}
		first, seen = value, true
	}
	return first, oneValue
}

// nextParam reads the first parameter of a query; ok says that it has that name. rest is what follows.
func nextParam(query, name string) (value, rest string, ok bool) {
	pair, rest, _ := strings.Cut(query, "&")
	key, value, _ := strings.Cut(pair, "=")
	if unescape(key) != name {
		return "", rest, false
	}
	return unescape(value), rest, true
}

// unescape decodes a part of a query; one that can't be decoded is taken as it is.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	out, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return out
}

// storeKey is the key of a global limit: the same in every proxy.
func storeKey(b *Bucket, distinct []byte) Key {
	var room [512]byte
	buf := binary.AppendUvarint(room[:0], uint64(len(b.Name)))
	sum := sha256.Sum256(append(append(buf, b.Name...), distinct...))
	return Key(sum[:16])
}

// show writes a key for a person.
func (rl *rule) show(c *authz.Connection, r *authz.Request) string {
	var parts []string
	for i := range rl.clauses {
		k := &rl.clauses[i]
		switch {
		case !k.distinct:
		case k.attribute == bySource:
			if p := k.block(client(c, r)); !p.IsValid() {
				parts = append(parts, "no address")
			} else if p.IsSingleIP() {
				parts = append(parts, "address "+p.Addr().String())
			} else {
				parts = append(parts, "network "+p.String())
			}
		default:
			parts = append(parts, k.showValue(c, r))
		}
	}
	return strings.Join(parts, ", ")
}

func (k *clause) showValue(c *authz.Connection, r *authz.Request) string {
	value, kind := k.value(c, r)
	if k.attribute == byIdentity {
		if kind == noValue {
			return "no identity"
		}
		return "identity " + value
	}
	what := "header "
	if k.attribute == byQuery {
		what = "parameter "
	}
	if kind == manyValue {
		return what + k.name + ", repeated"
	}
	return what + k.name + " " + strconv.Quote(shorten(value))
}

// shorten keeps what a person reads of a value.
func shorten(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
