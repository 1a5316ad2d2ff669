package jwt

import (
	"context"
	"crypto"
	"slices"
	"time"
)

// Key is one public key of an issuer's set (RFC 7517).
type Key struct {
	ID        string
	Algorithm string // RS256, ... ; "" lets the key's type say which
	Public    crypto.PublicKey
}

// Keys gives the keys of one issuer. Safe for concurrent use.
type Keys interface {
	// Keys are the keys known now, without waiting. As long as the set is the same it is the same slice, which nobody writes
	// to: what was verified with it is believed until there is another one.
	Keys() []Key
	// Refresh is called when no known key verifies a token's kid: it waits, no longer than ctx and a bound of its own, for
	// a newer set, and reports whether there is one. It bounds how often it really asks, whatever it is called for.
	Refresh(ctx context.Context) bool
}

// Rule is one issuer that a workload accepts (security.istio.io/v1 JWTRule).
type Rule struct {
	// Ref is what logs name: NAMESPACE/NAME of the RequestAuthentication and the position of the rule in it.
	Namespace, Name string
	Index           int

	Issuer    string
	Audiences []string // any of them; empty accepts all
	Keys      Keys
	// Where tokens are looked for. All empty: header authorization with prefix "Bearer " and query parameter access_token.
	Headers []HeaderLocation
	Params  []string
	Cookies []string
	// Forward keeps the token in the request that is forwarded (forwardOriginalToken).
	Forward bool
	// PayloadHeader is outputPayloadToHeader, ClaimHeaders outputClaimToHeaders.
	PayloadHeader string
	ClaimHeaders  []ClaimHeader
}

// HeaderLocation is a header field that carries a token after a prefix.
type HeaderLocation struct{ Name, Prefix string }

// ClaimHeader copies a claim (nested ones joined by '.') into a field of the request.
type ClaimHeader struct{ Header, Claim string }

// Fields gives access to a request's header fields, as authz.Headers does.
type Fields interface {
	HeaderValue(name string, from int) (value string, next int, ok bool)
}

// Found is what tokens say of one request.
type Found struct {
	// Token is nil if the request carries none.
	Token *Token
	// Clear are the fields that rules may set (PayloadHeader, ClaimHeaders), token or not: a caller can't claim them, so
	// they are taken off before anything is judged, and Set after that. Remove, RemoveParams and RemoveCookie are the token
	// itself, which policies may still look at and which is not forwarded. Names are lower case. The slices are shared:
	// not to be modified.
	Clear        []string
	Remove       []string
	RemoveParams []string
	RemoveCookie []string
	Set          []Field
}

// Field is a header field.
type Field struct{ Name, Value string }

// Error is why a token was refused. Reason is one of a fixed set of words, for log and metrics; Challenge is the value of
// www-authenticate (RFC 6750 section 3), which never repeats the token.
type Error struct {
	Rule      *Rule // nil if no rule is to blame
	Reason    string
	Challenge string
	Cause     error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Cause.Error()
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// Authenticator verifies the tokens of requests by the rules of one workload. Immutable but for a bounded cache of
// verified tokens; safe for concurrent use. The nil *Authenticator finds nothing and refuses nothing.
type Authenticator struct {
	locations []location
	always    []string // fields that rules may set
	cache     *cache
	now       func() time.Time
}

// New builds an Authenticator. The rules are not written to afterwards.
func New(rules []Rule) *Authenticator {
	rules = slices.Clone(rules)
	always := outputs(rules)
	return &Authenticator{locations: locations(rules, always), always: always, cache: newCache(), now: time.Now}
}

// maxSightings is how many locations with a token are told apart without allocating.
const maxSightings = 4

// sighting is a location that holds the request's token.
type sighting struct {
	location *location
	entry    *entry
}

// Authenticate looks for tokens where the rules say, and verifies them. No token is no error. realm goes into the
// challenge (the request's URL; its query is left out). query has its leading '?'.
//
// A token must be accepted at every place where it is found, by a rule that looks there and has its issuer. Different tokens
// in one request are refused, and so is a place with a token and another value: the program behind might read the other one.
// What Found refers to is shared: it must not be written to.
func (a *Authenticator) Authenticate(ctx context.Context, f Fields, query, realm string) (Found, *Error) {
	if a == nil {
		return Found{}, nil
	}
	var buffer [maxSightings]sighting
	seen, token := buffer[:0], ""
	for i := range a.locations {
		l := &a.locations[i]
		t, single := l.find(f, query)
		reason := ""
		switch {
		case t == "":
			continue
		case !single:
			reason = RepeatedLocation
		case token != "" && t != token:
			reason = SeveralTokens
		}
		if reason != "" {
			return Found{}, &Error{Reason: reason, Challenge: challenge(realm, reason)}
		}
		token = t
		e, err := a.at(ctx, i, t)
		if err != nil {
			err.Challenge = challenge(realm, err.Reason)
			return Found{}, err
		}
		seen = append(seen, sighting{l, e})
	}
	switch len(seen) {
	case 0:
		return Found{Clear: a.always}, nil
	case 1:
		return seen[0].entry.found, nil
	}
	return merge(seen), nil
}

// at verifies a token at one location.
func (a *Authenticator) at(ctx context.Context, location int, text string) (*entry, *Error) {
	now := a.now()
	if e := a.cache.get(text, location, now); e != nil {
		return e, nil
	}
	l := &a.locations[location]
	t, keys, err := verify(ctx, text, l.rules, now)
	if err != nil {
		return nil, err
	}
	e := entry{text: text, location: location, keys: keys, until: now.Add(CacheTime)}
	if end := t.Expires.Add(ClockSkew); !t.Expires.IsZero() && end.Before(e.until) {
		e.until = end
	}
	at := slices.IndexFunc(l.rules, func(r ruleAt) bool { return r.at == t.Rule })
	e.rule = l.rules[at].Rule
	if e.found = l.removed; e.rule.Forward {
		e.found = Found{Clear: a.always}
	}
	e.found.Token, e.found.Set = t, e.rule.fields(t)
	a.cache.put(e)
	return &e, nil
}

// merge is for a token that stands in several places: what the first one's rule sets, and what any of them removes.
func merge(seen []sighting) Found {
	out := seen[0].entry.found
	for _, s := range seen[1:] {
		f := &s.entry.found
		for _, name := range f.Remove {
			if !slices.Contains(out.Remove, name) {
				out.Remove = append(slices.Clip(out.Remove), name)
			}
		}
		out.RemoveParams = append(slices.Clip(out.RemoveParams), f.RemoveParams...)
		out.RemoveCookie = append(slices.Clip(out.RemoveCookie), f.RemoveCookie...)
		for _, set := range f.Set {
			if !slices.ContainsFunc(out.Set, func(o Field) bool { return o.Name == set.Name }) {
				out.Set = append(slices.Clip(out.Set), set)
			}
		}
	}
	return out
}
