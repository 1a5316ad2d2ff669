// Command issue measures the issuance of certificates. `issue raw` does what no CA can leave out, with the standard library
// alone: check the request's signature, sign, check what was signed. `issue door ADDR TOKEN-FILE` joins a control plane and
// renews its certificate through the gRPC door again and again, sixteen at a time. Both read "run N" lines and answer each
// with one JSON line; the CPU is counted by whoever started them.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca/caclient"
)

const atOnce = 16

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "issue:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	var one func() error
	switch {
	case len(args) == 1 && args[0] == "raw":
		one, err = raw(csr)
	case len(args) == 3 && args[0] == "door":
		one, err = door(args[1], args[2], key, csr)
	default:
		err = errors.New("want raw, or door ADDR TOKEN-FILE")
	}
	if err != nil {
		return err
	}
	parallel := atOnce
	if args[0] == "raw" {
		parallel = 1
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		n := 0
		if _, err := fmt.Sscanf(in.Text(), "run %d", &n); err != nil {
			return err
		}
		start := time.Now()
		if err := repeat(n, parallel, one); err != nil {
			return err
		}
		fmt.Printf("{\"n\":%d,\"secs\":%.6f}\n", n, time.Since(start).Seconds())
	}
	return in.Err()
}

// repeat calls one n times, some at once, and returns the first error.
func repeat(n, parallel int, one func() error) error {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make(chan error, parallel)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := one(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// raw is the limit.
func raw(csr []byte) (func() error, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour), IsCA: true,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	uri := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/default/sa/client"}
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	return func() error {
		block, _ := pem.Decode(csr)
		req, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return err
		}
		if err := req.CheckSignature(); err != nil {
			return err
		}
		serial, err := rand.Int(rand.Reader, limit)
		if err != nil {
			return err
		}
		tmpl := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
			KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, req.PublicKey, key)
		if err != nil {
			return err
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		return made.CheckSignatureFrom(issuer)
	}, nil
}

// door joins with a token and returns a renewal over one connection.
func door(addr, tokenFile string, key *ecdsa.PrivateKey, csr []byte) (func() error, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	client, err := caclient.New(caclient.Options{Addr: addr, Token: caclient.StaticToken(strings.TrimSpace(string(token)))})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	issued, err := client.Issue(ctx, csr, time.Hour, nil)
	if err != nil {
		return nil, err
	}
	own := tls.Certificate{PrivateKey: key}
	for _, c := range issued.Chain {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		return nil, err
	}
	ca := securityv1.NewIstioCertificateServiceClient(conn)
	in := &securityv1.IstioCertificateRequest{Csr: string(csr), ValidityDuration: 3600}
	return func() error {
		_, err := ca.CreateCertificate(ctx, in)
		return err
	}, nil
}
