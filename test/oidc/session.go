package main

import (
	"maps"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"
)

// session is what fosite keeps of a login: the claims of the ID token and those of a JWT access token.
type session struct {
	*openid.DefaultSession
	Access *jwt.JWTClaims
	Header *jwt.Headers
}

func newSession(issuer, user string, extra map[string]any) *session {
	s := openid.NewDefaultSession()
	s.Subject, s.Username = user, user
	s.Claims.Issuer, s.Claims.Subject, s.Claims.AuthTime = issuer, user, time.Now().UTC()
	return &session{s, &jwt.JWTClaims{Issuer: issuer, Subject: user, Extra: extra}, &jwt.Headers{}}
}

func (s *session) GetJWTClaims() jwt.JWTClaimsContainer { return s.Access }
func (s *session) GetJWTHeader() *jwt.Headers           { return s.Header }

// Clone implements fosite.Session.
func (s *session) Clone() fosite.Session {
	access := *s.Access
	access.Extra = maps.Clone(access.Extra)
	return &session{s.DefaultSession.Clone().(*openid.DefaultSession), &access, &jwt.Headers{Extra: maps.Clone(s.Header.Extra)}}
}
