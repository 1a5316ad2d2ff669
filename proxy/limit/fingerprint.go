package limit

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/signet-mesh/signet/mesh/policy"
)

// content is what a rule means, written unambiguously: texts with their length, lists with theirs. It names state in this
// process and in the store, so it must stay the same over releases; protobuf's own encoding does not promise that.
type content []byte

func (c *content) text(values ...string) {
	for _, s := range values {
		*c = append(binary.AppendUvarint(*c, uint64(len(s))), s...)
	}
}

func (c *content) number(values ...int) {
	for _, n := range values {
		*c = binary.AppendUvarint(*c, uint64(n))
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fingerprint is the hash of a rule's selectors and unit: of what it counts. How much of that is allowed (requests, burst)
// and what becomes of a refusal (shadowMode, onStoreFailure) is no part of it: changing that forgives nobody.
func fingerprint(r *policy.RateLimitRule) [32]byte {
	var c content
	c.number(len(r.GetClientSelectors()))
	for _, s := range r.GetClientSelectors() {
		c.selector(s)
	}
	c.number(int(r.GetLimit().GetUnit()))
	return sha256.Sum256(c)
}

func (c *content) selector(s *policy.ClientSelector) {
	c.number(len(s.GetHeaders()))
	for _, m := range s.GetHeaders() {
		c.text(m.GetName(), m.GetValue())
		c.number(int(m.GetType()), bit(m.GetInvert()))
	}
	c.number(len(s.GetMethods()))
	for _, m := range s.GetMethods() {
		c.text(m.GetValue())
		c.number(bit(m.GetInvert()))
	}
	c.number(bit(s.GetPath() != nil), int(s.GetPath().GetType()), bit(s.GetPath().GetInvert()))
	c.text(s.GetPath().GetValue())
	c.number(bit(s.GetSourceCidr() != nil), int(s.GetSourceCidr().GetType()), bit(s.GetSourceCidr().GetInvert()))
	c.text(s.GetSourceCidr().GetValue())
	c.number(len(s.GetQueryParams()))
	for _, m := range s.GetQueryParams() {
		c.text(m.GetName(), m.GetValue())
		c.number(int(m.GetType()), bit(m.GetInvert()))
	}
	c.number(bit(s.GetIdentity() != nil), int(s.GetIdentity().GetType()), bit(s.GetIdentity().GetInvert()))
	c.text(s.GetIdentity().GetValue())
}
