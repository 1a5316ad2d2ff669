// Package jwt reads and verifies JSON Web Tokens (RFC 7519) signed by JWS (RFC 7515): one verifier for end users' tokens,
// service account tokens and JWT-SVIDs. It does no I/O: keys come from a Keys.
package jwt

import "time"

// Token is a token whose signature, issuer, audience and times were verified. Immutable and shared.
type Token struct {
	Issuer, Subject string
	Audiences       []string
	// Presenter is the claim azp.
	Presenter string
	Expires   time.Time
	// Claims is the payload as JSON: string, json.Number, bool, nil, []any and map[string]any.
	Claims map[string]any
	// Payload is the payload's segment as it was sent, base64url without padding.
	Payload string
	// Rule is the position of the rule that accepted it.
	Rule int
}

// Principal is ISSUER/SUBJECT (Istio's request.auth.principal), "" if either is absent.
func (t *Token) Principal() string {
	if t == nil || t.Issuer == "" || t.Subject == "" {
		return ""
	}
	return t.Issuer + "/" + t.Subject
}
