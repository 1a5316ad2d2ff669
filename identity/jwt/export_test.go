package jwt

import "time"

// VerifyJWS verifies a JWS whose payload may be anything.
func VerifyJWS(text string, keys []Key) (payload []byte, ok bool) {
	c, err := parseCompact(text)
	if err != nil {
		return nil, false
	}
	return c.payload, c.verify(keys) == verified
}

// SetClock sets the clock of an Authenticator that nobody uses yet.
func (a *Authenticator) SetClock(now func() time.Time) { a.now = now }

// CacheSize is how many tokens are kept, and the bytes that count.
func (a *Authenticator) CacheSize() (tokens, bytes int) {
	for i := range a.cache.shards {
		s := &a.cache.shards[i]
		for _, generation := range []map[uint64]*entry{s.young, s.old} {
			for _, e := range generation {
				tokens++
				bytes += len(e.text) + entryBytes
			}
		}
	}
	return tokens, bytes
}
