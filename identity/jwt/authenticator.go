package jwt

import (
	"context"
	"crypto"
)

// Key is one public key of an issuer's set (RFC 7517).
type Key struct {
	ID        string
	Algorithm string // RS256, ... ; "" lets the key's type say which
	Public    crypto.PublicKey
}

// Keys gives the keys of one issuer. Safe for concurrent use.
type Keys interface {
	// Keys are the keys known now, without waiting.
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
	// Remove are what must not be forwarded, Set the fields to set; names are lower case. Every field that a rule may set
	// is in Remove even when there is no token, so that a caller can't claim it.
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
type Authenticator struct{}

// New builds an Authenticator.
func New(rules []Rule) *Authenticator { return &Authenticator{} }

// Authenticate looks for tokens where the rules say, and verifies them. No token is no error. realm goes into the
// challenge (the request's URL). query has its leading '?'.
func (a *Authenticator) Authenticate(ctx context.Context, f Fields, query, realm string) (Found, *Error) {
	return Found{}, nil
}
