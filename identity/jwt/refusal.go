package jwt

import "strings"

// The reasons of an Error.
const (
	Malformed        = "malformed"         // no JWS in compact serialization, or claims of the wrong types
	TooLong          = "too_long"          // longer than MaxToken
	BadAlgorithm     = "algorithm"         // none, a symmetric one, or one that is not supported
	UnknownIssuer    = "unknown_issuer"    // no rule for this place has the token's iss
	UnknownKey       = "unknown_key"       // the issuer has no such key
	KeysUnavailable  = "keys_unavailable"  // no key of the issuer is known (yet)
	BadSignature     = "signature"         // the issuer's keys did not make the signature
	Expired          = "expired"           // past exp and ClockSkew
	NotYetValid      = "not_yet_valid"     // before nbf and ClockSkew
	WrongAudience    = "audience"          // aud names none of the rule's audiences
	SeveralTokens    = "several_tokens"    // the request carries different tokens
	RepeatedLocation = "repeated_location" // a field, parameter or cookie that holds a token has a second value
)

// describe gives the error_description of a reason; RFC 6750 section 3 allows no quotes and backslashes in it.
func describe(reason string) string {
	switch reason {
	case TooLong:
		return "the token is too long"
	case BadAlgorithm:
		return "the token's algorithm is not accepted"
	case UnknownIssuer:
		return "the token's issuer is not accepted here"
	case UnknownKey:
		return "the token's key is not one of its issuer"
	case KeysUnavailable:
		return "the keys of the token's issuer are not available"
	case BadSignature:
		return "the token's signature is wrong"
	case Expired:
		return "the token has expired"
	case NotYetValid:
		return "the token is not valid yet"
	case WrongAudience:
		return "the token is meant for another audience"
	case SeveralTokens:
		return "the request carries different tokens"
	case RepeatedLocation:
		return "the token is given more than once in one place"
	}
	return "the token is malformed"
}

// maxRealm is the longest realm of a challenge in bytes; the rest is left out.
const maxRealm = 256

// challenge is the value of www-authenticate. The realm loses its query, which may hold the token, and what a quoted string
// can't hold.
func challenge(realm, reason string) string {
	realm, _, _ = strings.Cut(realm, "?")
	realm = realm[:min(len(realm), maxRealm)]
	var b strings.Builder
	b.WriteString(`Bearer realm="`)
	for i := range len(realm) {
		if c := realm[i]; c > 0x20 && c < 0x7f && c != '"' && c != '\\' {
			b.WriteByte(c)
		}
	}
	b.WriteString(`", error="invalid_token", error_description="`)
	b.WriteString(describe(reason))
	b.WriteString(`"`)
	return b.String()
}

// refuse builds an Error that has no challenge yet.
func refuse(r *Rule, reason string, cause error) *Error {
	return &Error{Rule: r, Reason: reason, Cause: cause}
}
