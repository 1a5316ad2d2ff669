package mesh

import (
	"fmt"
	"net/url"
	"strings"

	security "istio.io/api/security/v1"
	"istio.io/api/security/v1beta1"
)

func (j *judge) requestAuthentication(a *security.RequestAuthentication) {
	j.selectorLabels("selector.matchLabels", a.GetSelector().GetMatchLabels())
	if len(a.GetJwtRules()) == 0 && !j.object.Quarantined() {
		j.warn("jwtRules", "there are none: no token is verified, and none refused")
	}
	if !j.atMost("jwtRules", len(a.GetJwtRules()), MaxJWTRules) {
		return
	}
	for i, r := range a.GetJwtRules() {
		j.jwtRule(fmt.Sprintf("jwtRules[%d].", i), r)
	}
}

func (j *judge) jwtRule(f string, r *v1beta1.JWTRule) {
	if j.word(f+"issuer", r.GetIssuer(), maxWordBytes) {
		j.keySource(f, r)
	}
	j.words(f+"audiences", r.GetAudiences(), maxJWTLocations, maxWordBytes)
	j.words(f+"fromParams", r.GetFromParams(), maxJWTLocations, 256)
	j.atMost(f+"fromHeaders", len(r.GetFromHeaders()), maxJWTLocations)
	for i, h := range r.GetFromHeaders() {
		at := fmt.Sprintf("%sfromHeaders[%d].", f, i)
		j.headerName(at+"name", h.GetName())
		j.headerValue(at+"prefix", h.GetPrefix(), true)
		if len(h.GetPrefix()) > 256 {
			j.refuse(at+"prefix", "has %d bytes, more than 256", len(h.GetPrefix()))
		}
	}
	j.atMost(f+"fromCookies", len(r.GetFromCookies()), maxJWTLocations)
	for i, c := range r.GetFromCookies() {
		if checkToken(c) != nil {
			j.refuse(fmt.Sprintf("%sfromCookies[%d]", f, i), "%q is no cookie name", clip(c))
		}
	}
	j.between(f+"timeout", r.GetTimeout(), 1e6, maxJWKSTimeout)
	if r.GetTimeout() != nil && r.GetJwks() != "" {
		j.warn(f+"timeout", "means nothing: jwks is not fetched")
	}
	j.claimHeaders(f, r)
}

// words judges a list of texts, none of them empty.
func (j *judge) words(field string, values []string, count, size int) {
	j.atMost(field, len(values), count)
	for i, v := range values {
		j.word(fmt.Sprintf("%s[%d]", field, i), v, size)
	}
}

// keySource judges where the keys come from: inline, a URL, or discovery from the issuer.
func (j *judge) keySource(f string, r *v1beta1.JWTRule) {
	var from *url.URL
	at := f + "jwksUri"
	switch {
	case r.GetJwks() != "" && r.GetJwksUri() != "":
		j.refuse(at, "and jwks exclude each other")
	case len(r.GetJwks()) > MaxJWKSBytes:
		j.refuse(f+"jwks", "has %d bytes, more than %d", len(r.GetJwks()), MaxJWKSBytes)
	case r.GetJwks() != "":
	case r.GetJwksUri() != "":
		from = j.fetched(at, r.GetJwksUri())
	case !strings.HasPrefix(r.GetIssuer(), "https://") && !strings.HasPrefix(r.GetIssuer(), "http://"):
		j.refuse(f+"issuer", "%q is no http or https URL whose keys could be discovered: set jwks or jwksUri", clip(r.GetIssuer()))
	default:
		at = f + "issuer"
		from = j.service(at, r.GetIssuer())
	}
	if plaintext(from) {
		j.warn(at, "keys that are fetched without TLS can be replaced by anybody on the way, who then makes tokens")
	}
}

// claimHeaders judges the fields that a verified token is written to.
func (j *judge) claimHeaders(f string, r *v1beta1.JWTRule) {
	seen := make(map[string]bool)
	header := func(at, name string) {
		j.headerName(at, name)
		if lower := strings.ToLower(name); seen[lower] {
			j.refuse(at, "%q is given twice", clip(name))
		} else {
			seen[lower] = true
		}
	}
	if name := r.GetOutputPayloadToHeader(); name != "" {
		header(f+"outputPayloadToHeader", name)
	}
	j.atMost(f+"outputClaimToHeaders", len(r.GetOutputClaimToHeaders()), maxClaimHeaders)
	for i, c := range r.GetOutputClaimToHeaders() {
		at := fmt.Sprintf("%soutputClaimToHeaders[%d].", f, i)
		header(at+"header", c.GetHeader())
		if strings.ContainsFunc(c.GetHeader(), func(r rune) bool { return r > 0x7f || !alphanumeric(byte(r)) && r != '-' && r != '_' }) {
			j.refuse(at+"header", "%q: want letters, digits, - and _", clip(c.GetHeader()))
		}
		j.word(at+"claim", c.GetClaim(), maxWordBytes)
	}
}
