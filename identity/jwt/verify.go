package jwt

import (
	"context"
	"errors"
	"time"
)

// Verify verifies one token by rules at a time: one of them must have the token's issuer, and the first of those that accepts
// the token gives its position. It asks Keys for newer keys at most once for each rule. Errors name no part of the token; their
// Challenge is empty.
func Verify(ctx context.Context, token string, rules []Rule, now time.Time) (*Token, *Error) {
	pointers := make([]ruleAt, len(rules))
	for i := range rules {
		pointers[i] = ruleAt{&rules[i], i}
	}
	t, _, err := verify(ctx, token, pointers, now)
	return t, err
}

// ruleAt is a rule with its position.
type ruleAt struct {
	*Rule
	at int
}

// verify also gives the set of keys that the token was verified with.
func verify(ctx context.Context, token string, rules []ruleAt, now time.Time) (*Token, []Key, *Error) {
	c, err := parseCompact(token)
	switch {
	case errors.Is(err, errLength):
		return nil, nil, refuse(nil, TooLong, nil)
	case err != nil:
		return nil, nil, refuse(nil, Malformed, err)
	case !Supported(c.algorithm):
		return nil, nil, refuse(nil, BadAlgorithm, nil)
	}
	read, err := readClaims(c)
	if err != nil {
		return nil, nil, refuse(nil, Malformed, err)
	}
	refusal := refuse(nil, UnknownIssuer, nil)
	for _, r := range rules {
		if r.Issuer == "" || r.Issuer != read.token.Issuer {
			continue
		}
		keys, reason := accept(ctx, c, read, r.Rule, now)
		if reason == "" {
			read.token.Rule = r.at
			return &read.token, keys, nil
		}
		refusal = refuse(r.Rule, reason, nil)
	}
	return nil, nil, refusal
}

// accept judges claims before it looks at the signature: that is the cheaper part, and no reason to ask anybody for keys.
func accept(ctx context.Context, c *compact, read *claims, r *Rule, now time.Time) (keys []Key, reason string) {
	if reason := read.judge(r, now); reason != "" {
		return nil, reason
	}
	if r.Keys == nil {
		return nil, KeysUnavailable
	}
	keys = r.Keys.Keys()
	result := c.verify(keys)
	// A signature by a key of this name that is wrong is wrong: only a name that is not known, or none, is worth asking for.
	if result == noKey || result == noMatch && !c.hasKeyID {
		r.Keys.Refresh(ctx)
		// Another request's question may have brought the newer set.
		if newer := r.Keys.Keys(); !same(newer, keys) {
			keys, result = newer, c.verify(newer)
		}
	}
	switch {
	case result == verified:
		return keys, ""
	case result == noMatch:
		return nil, BadSignature
	case len(keys) == 0:
		return nil, KeysUnavailable
	}
	return nil, UnknownKey
}

// same reports whether two results of Keys are one set: a set is not written to after it was given out.
func same(a, b []Key) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
