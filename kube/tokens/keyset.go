package tokens

import (
	"crypto"
	"slices"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
)

// keySet is what was fetched last, and for keepTime what was published before. Immutable; nil before the first fetch.
type keySet struct {
	issuer string // as fetched last, and so is text
	text   []byte

	allIssuers []kept[string]
	allKeys    []kept[jwt.Key]
	// issuers and keys are the values of those, as they are asked for.
	issuers []string
	keys    []jwt.Key
}

// kept is a value that is published, or was.
type kept[T any] struct {
	value T
	until time.Time // when it is believed no more; zero while it is published
}

// next is the set after a fetch at now.
func (s *keySet) next(issuer string, text []byte, keys []jwt.Key, now time.Time) *keySet {
	if s == nil {
		s = &keySet{}
	}
	sameIssuer := func(a, b string) bool { return a == b }
	return newKeySet(issuer, text, unite(s.allIssuers, []string{issuer}, sameIssuer, now), unite(s.allKeys, keys, sameKey, now))
}

// at is the set without what ended by now: the same one if nothing did.
func (s *keySet) at(now time.Time) *keySet {
	if s == nil {
		return nil
	}
	issuers, keys := believed(s.allIssuers, now), believed(s.allKeys, now)
	if len(issuers) == len(s.allIssuers) && len(keys) == len(s.allKeys) {
		return s
	}
	return newKeySet(s.issuer, s.text, issuers, keys)
}

func newKeySet(issuer string, text []byte, issuers []kept[string], keys []kept[jwt.Key]) *keySet {
	s := &keySet{issuer: issuer, text: text, allIssuers: issuers, allKeys: keys}
	for _, i := range issuers {
		s.issuers = append(s.issuers, i.value)
	}
	for _, k := range keys {
		s.keys = append(s.keys, k.value)
	}
	return s
}

// unite is what is published now, and behind it what was.
func unite[T any](old []kept[T], published []T, same func(a, b T) bool, now time.Time) []kept[T] {
	var out []kept[T]
	for _, v := range published {
		out = append(out, kept[T]{value: v})
	}
	for _, o := range believed(old, now) {
		if slices.ContainsFunc(published, func(v T) bool { return same(v, o.value) }) {
			continue
		}
		if o.until.IsZero() {
			o.until = now.Add(keepTime)
		}
		out = append(out, o)
	}
	return out
}

func believed[T any](all []kept[T], now time.Time) []kept[T] {
	ended := func(k kept[T]) bool { return !k.until.IsZero() && !now.Before(k.until) }
	if !slices.ContainsFunc(all, ended) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), ended)
}

func sameKey(a, b jwt.Key) bool {
	public, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && a.ID == b.ID && a.Algorithm == b.Algorithm && public.Equal(b.Public)
}
