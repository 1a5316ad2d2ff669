package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy/judge"
)

// withClaims is the workload for a request whose token counts as verified: what RequestAuthentication would make of a token
// with these claims that is properly signed and has not expired. outputPayloadToHeader and outputClaimToHeaders are not done.
func (a *At) withClaims(v *mesh.View, claims map[string]any) (*At, error) {
	t, err := tokenOf(claims)
	if err != nil {
		return nil, err
	}
	if err := accepts(v, t); err != nil {
		return nil, err
	}
	out := *a
	out.Judge = judge.New(a.Workload.Settings, authz.NewProgram(&tokenEngine{a.Judge.Program.Engine(), t}), nil)
	out.claimed = t
	return &out, nil
}

// tokenOf is the token with these claims.
func tokenOf(claims map[string]any) (*jwt.Token, error) {
	b, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // as the verifier reads them
	t := &jwt.Token{}
	if err := d.Decode(&t.Claims); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	t.Issuer, _ = t.Claims["iss"].(string)
	t.Subject, _ = t.Claims["sub"].(string)
	t.Presenter, _ = t.Claims["azp"].(string)
	switch aud := t.Claims["aud"].(type) {
	case string:
		t.Audiences = []string{aud}
	case []any:
		for _, one := range aud {
			if s, ok := one.(string); ok {
				t.Audiences = append(t.Audiences, s)
			}
		}
	}
	return t, nil
}

// accepts says whether any rule would take the token, by issuer and audience.
func accepts(v *mesh.View, t *jwt.Token) error {
	if len(v.RequestAuthentication) == 0 {
		return errors.New("claims: no RequestAuthentication selects the server, so that it verifies no tokens")
	}
	var issuers []string
	for _, r := range v.RequestAuthentication {
		for _, rule := range r.Spec.GetJwtRules() {
			issuers = append(issuers, rule.Issuer)
			if rule.Issuer == t.Issuer && (len(rule.Audiences) == 0 ||
				slices.ContainsFunc(rule.Audiences, func(s string) bool { return slices.Contains(t.Audiences, s) })) {
				return nil
			}
		}
	}
	return fmt.Errorf("claims: no RequestAuthentication of the server takes a token of iss %q with aud %q; it takes those of %s",
		t.Issuer, strings.Join(t.Audiences, " "), strings.Join(issuers, ", "))
}

// tokenEngine judges each request as one with that token, once tokens are verified.
type tokenEngine struct {
	authz.Engine
	token *jwt.Token
}

// Judge implements authz.Engine.
func (e *tokenEngine) Judge(c *authz.Connection, r *authz.Request) authz.Decision {
	return e.Engine.Judge(c, e.with(r))
}

// Handover implements authz.Engine.
func (e *tokenEngine) Handover(i int, c *authz.Connection, r *authz.Request) *authz.RuleRef {
	if e.Handovers()[i].Custom.AfterToken {
		r = e.with(r)
	}
	return e.Engine.Handover(i, c, r)
}

// DryRun implements authz.Engine.
func (e *tokenEngine) DryRun(dst []authz.Shadow, c *authz.Connection, r *authz.Request) []authz.Shadow {
	return e.Engine.DryRun(dst, c, e.with(r))
}

// Explain implements authz.Engine.
func (e *tokenEngine) Explain(c *authz.Connection, r *authz.Request) []authz.PolicyTrace {
	return e.Engine.Explain(c, e.with(r))
}

// with puts the token into the request itself, which authorities are given after this.
func (e *tokenEngine) with(r *authz.Request) *authz.Request {
	if r != nil {
		r.Token = e.token
	}
	return r
}
