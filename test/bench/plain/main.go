// Command plain is the measure for a new mTLS connection: a TCP tunnel over mutual TLS 1.3 made of package crypto/tls alone,
// with its defaults. `plain out` dials TLS for each connection it accepts, `plain in` answers it and dials the program.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "plain:", run())
	os.Exit(1)
}

// run serves until accepting fails, and says why.
func run() error {
	f := flag.NewFlagSet("plain in|out", flag.ExitOnError)
	listen := f.String("listen", "", "IP:PORT to accept on")
	target := f.String("target", "", "IP:PORT to dial")
	ca := f.String("ca", "", "PEM file of the roots")
	cert := f.String("cert", "", "PEM file of the chain")
	key := f.String("key", "", "PEM file of the key")
	name := f.String("name", "", "the server's DNS name")
	if len(os.Args) < 2 {
		return fmt.Errorf("want in or out")
	}
	_ = f.Parse(os.Args[2:])
	own, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cfg := &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13, RootCAs: roots, ClientCAs: roots,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: *name, SessionTicketsDisabled: true}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		if os.Args[1] == "in" {
			go in(tls.Server(c, cfg), *target)
		} else {
			go out(c, *target, cfg)
		}
	}
}

// in is the server's half.
func in(down *tls.Conn, target string) {
	if down.Handshake() != nil {
		down.Close()
		return
	}
	up, err := net.Dial("tcp", target)
	if err != nil {
		down.Close()
		return
	}
	join(down, up)
}

// out is the client's half.
func out(down net.Conn, target string, cfg *tls.Config) {
	up, err := tls.Dial("tcp", target, cfg)
	if err != nil {
		down.Close()
		return
	}
	join(down, up)
}

// join copies both ways until both have ended.
func join(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(a, b)
	}()
	pass(b, a)
	<-done
	a.Close()
	b.Close()
}

func pass(dst, src net.Conn) {
	_, _ = io.Copy(dst, src)
	if h, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}
