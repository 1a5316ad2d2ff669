// Command oidc is a real OpenID provider for tests, built on ory/fosite: discovery, keys, and tokens by the client credentials
// and authorization code flows. Everybody who asks is the user that they name, and gets the claims that they name: it is for tests
// alone. It stays a module of its own because of what fosite drags in.
//
// It prints its issuer as the first line on standard output and serves until it is killed.
//
//	GET  /.well-known/openid-configuration, /jwks
//	GET  /auth   OpenID Connect's, by client_id=kitchen; user= is who logs in
//	POST /token  client_credentials and authorization_code, with basic auth kitchen:oven-oven-oven-oven; for client_credentials
//	             audience=, user= and claims= (a JSON object) say what is in the token
//	POST /rotate makes a new signing key; with drop=1 the old ones are no longer published
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	lifetime := flag.Duration("lifetime", time.Hour, "lifetime of tokens")
	algorithm := flag.String("alg", "ES256", "algorithm of signatures: ES256 or RS256")
	flag.Parse()
	if err := run(*listen, *algorithm, *lifetime); err != nil {
		log.Fatal(err)
	}
}

func run(listen, algorithm string, lifetime time.Duration) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	issuer := "http://" + l.Addr().String()
	p, err := newProvider(issuer, algorithm, lifetime)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: p.routes(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Println(issuer)
	return server.Serve(l)
}
