package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"
)

// The one client.
const (
	clientID     = "kitchen"
	clientSecret = "oven-oven-oven-oven"
	redirectURI  = "http://127.0.0.1/callback"
)

// provider is the server.
type provider struct {
	issuer string
	oauth2 fosite.OAuth2Provider
	keys   *keys
}

func newProvider(issuer, algorithm string, lifetime time.Duration) (*provider, error) {
	k := &keys{algorithm: algorithm}
	if err := k.rotate(false); err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	config := &fosite.Config{
		AccessTokenLifespan: lifetime, IDTokenLifespan: lifetime, GlobalSecret: secret, HashCost: 4,
		IDTokenIssuer: issuer, AccessTokenIssuer: issuer, JWTScopeClaimKey: jwt.JWTScopeFieldString,
		AudienceMatchingStrategy: func([]string, []string) error { return nil },
	}
	hashed, err := (&fosite.BCrypt{Config: config}).Hash(context.Background(), []byte(clientSecret))
	if err != nil {
		return nil, err
	}
	store := storage.NewMemoryStore()
	store.Clients[clientID] = &fosite.DefaultClient{
		ID: clientID, Secret: hashed, RedirectURIs: []string{redirectURI}, ResponseTypes: []string{"code"},
		GrantTypes: []string{"client_credentials", "authorization_code"}, Scopes: []string{"openid", "menu"},
	}
	core := compose.NewOAuth2HMACStrategy(config)
	strategy := &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2JWTStrategy(k.signing, core, config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(k.signing, config),
		Signer:                     &jwt.DefaultSigner{GetPrivateKey: k.signing},
	}
	return &provider{issuer: issuer, keys: k, oauth2: compose.Compose(config, store, strategy,
		compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2ClientCredentialsGrantFactory, compose.OpenIDConnectExplicitFactory)}, nil
}

func (p *provider) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.keys.published()) })
	mux.HandleFunc("POST /rotate", func(w http.ResponseWriter, r *http.Request) {
		if err := p.keys.rotate(r.FormValue("drop") != ""); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /auth", p.authorize)
	mux.HandleFunc("POST /token", p.token)
	return mux
}

func (p *provider) discovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{
		"issuer": p.issuer, "jwks_uri": p.issuer + "/jwks",
		"authorization_endpoint": p.issuer + "/auth", "token_endpoint": p.issuer + "/token",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{p.keys.algorithm},
	})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// authorize logs everybody in as the user that they name.
func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	request, err := p.oauth2.NewAuthorizeRequest(ctx, r)
	if err != nil {
		p.oauth2.WriteAuthorizeError(ctx, w, request, err)
		return
	}
	for _, scope := range request.GetRequestedScopes() {
		request.GrantScope(scope)
	}
	response, err := p.oauth2.NewAuthorizeResponse(ctx, request, newSession(p.issuer, r.FormValue("user"), nil))
	if err != nil {
		p.oauth2.WriteAuthorizeError(ctx, w, request, err)
		return
	}
	p.oauth2.WriteAuthorizeResponse(ctx, w, request, response)
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	var extra map[string]any
	if text := r.FormValue("claims"); text != "" {
		if err := json.Unmarshal([]byte(text), &extra); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	user := r.FormValue("user")
	if user == "" {
		user = clientID
	}
	request, err := p.oauth2.NewAccessRequest(ctx, r, newSession(p.issuer, user, extra))
	if err == nil {
		if slices.Equal(request.GetGrantTypes(), []string{"client_credentials"}) {
			for _, scope := range request.GetRequestedScopes() {
				request.GrantScope(scope)
			}
			for _, audience := range request.GetRequestedAudience() {
				request.GrantAudience(audience)
			}
		}
		var response fosite.AccessResponder
		if response, err = p.oauth2.NewAccessResponse(ctx, request); err == nil {
			p.oauth2.WriteAccessResponse(ctx, w, request, response)
			return
		}
	}
	p.oauth2.WriteAccessError(ctx, w, request, err)
}
