package jwt

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// ClockSkew is by how much the clocks of issuer and verifier may differ (the default of clock_skew_seconds of Envoy's
// jwt_authn).
const ClockSkew = 60 * time.Second

// maxSeconds bounds times: beyond it a float64 has no whole seconds.
const maxSeconds = 1 << 53

// claims are what is read of a payload. Nothing in them is verified.
type claims struct {
	token     Token
	notBefore time.Time
}

// readClaims reads a payload. The registered claims have the types of RFC 7519 section 4.1, or the token is refused.
func readClaims(c *compact) (*claims, error) {
	all, err := object(c.payload)
	if err != nil {
		return nil, err
	}
	out := &claims{token: Token{Claims: all, Payload: strings.Clone(c.segment)}}
	t := &out.token
	for name, into := range map[string]*string{"iss": &t.Issuer, "sub": &t.Subject, "azp": &t.Presenter} {
		if v, ok := all[name]; ok {
			if *into, ok = v.(string); !ok {
				return nil, fmt.Errorf("reading claims: %q is not a string", name)
			}
		}
	}
	if t.Audiences, err = audiences(all); err != nil {
		return nil, err
	}
	if t.Expires, err = numericDate(all, "exp", math.Floor); err != nil {
		return nil, err
	}
	if out.notBefore, err = numericDate(all, "nbf", math.Ceil); err != nil {
		return nil, err
	}
	_, err = numericDate(all, "iat", math.Floor)
	return out, err
}

// audiences reads aud, a string or an array of strings.
func audiences(all map[string]any) ([]string, error) {
	v, ok := all["aud"]
	if !ok {
		return nil, nil
	}
	if one, ok := v.(string); ok {
		return []string{one}, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("reading claims: %q is neither a string nor an array", "aud")
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, fmt.Errorf("reading claims: %q holds something else than strings", "aud")
		}
		out = append(out, s)
	}
	return out, nil
}

// numericDate reads seconds since 1970, which may have a fraction (RFC 7519 section 2). The zero time means absent.
func numericDate(all map[string]any, name string, round func(float64) float64) (time.Time, error) {
	v, ok := all[name]
	if !ok {
		return time.Time{}, nil
	}
	number, ok := v.(json.Number)
	if !ok {
		return time.Time{}, fmt.Errorf("reading claims: %q is not a number", name)
	}
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > maxSeconds {
		return time.Time{}, fmt.Errorf("reading claims: %q is out of range", name)
	}
	return time.Unix(int64(round(seconds)), 0), nil
}

// judge says what is wrong with claims under a rule of their issuer at a time, "" if nothing is. A token without exp does not expire, as in
// Envoy.
func (c *claims) judge(r *Rule, now time.Time) string {
	switch t := &c.token; {
	case !c.notBefore.IsZero() && now.Add(ClockSkew).Before(c.notBefore):
		return NotYetValid
	case !t.Expires.IsZero() && !now.Before(t.Expires.Add(ClockSkew)):
		return Expired
	case len(r.Audiences) > 0 && !slices.ContainsFunc(t.Audiences, func(a string) bool { return slices.Contains(r.Audiences, a) }):
		return WrongAudience
	}
	return ""
}
