package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
)

// childEnv makes this program a child, which runs the clients that its standard input orders.
const childEnv = "SIGNET_SCALE_CHILD"

const trustDomain = "cluster.local"

func child(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex // guards enc
	enc := json.NewEncoder(out)
	tell := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(e)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		g.Go(func() error { return client(ctx, &o, tell) })
	}
	stop()
	return g.Wait()
}

// client is one sidecar's identity and configuration: what signet-proxy has, less its corridors.
func client(ctx context.Context, o *order, tell func(event)) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	issuer, err := caclient.New(caclient.Options{Addr: o.Control, Bearer: caclient.StaticToken(o.Token), TrustDomain: trustDomain,
		Workload: o.Node[0] + "/" + o.Node[1], Timeout: time.Minute, Roots: func() ([]*x509.Certificate, error) { return roots(o.Roots) }})
	if err != nil {
		return err
	}
	own, err := rotate.New(rotate.Config{Issuer: issuer, Log: log})
	if err != nil {
		return err
	}
	server, err := identity.ControlPlane(trustDomain)
	if err != nil {
		return err
	}
	ready := false
	ads, err := adsclient.New(adsclient.Config{Addr: o.Control, Source: own, Server: server, Namespace: o.Node[0], Workload: o.Node[1], Log: log,
		OnDemand: true, Apply: func(v *mesh.View) error {
			e := event{Client: o.Client, At: time.Now(), Marker: marker(v)}
			if !ready {
				if ready = answered(v, o.Hosts); !ready {
					return nil
				}
				e.Ready = true
			}
			tell(e)
			return nil
		}})
	if err != nil {
		return err
	}
	ads.Ask(o.Hosts...)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return own.Run(ctx) })
	g.Go(func() error { return ads.Run(ctx) })
	return g.Wait()
}

func answered(v *mesh.View, hosts []string) bool {
	for _, h := range hosts {
		if v.Asked[h].Host == "" {
			return false
		}
	}
	return true
}

// marker is the newest endpoint that a change added, "" if there is none.
func marker(v *mesh.View) string {
	newest := ""
	for _, s := range v.Services {
		for _, port := range s.Endpoints {
			for _, e := range port {
				if a, ok := strings.CutPrefix(e.Address, "10.99."); ok {
					a, _, _ = strings.Cut(a, ":")
					if len(a) > len(newest) || len(a) == len(newest) && a > newest {
						newest = a
					}
				}
			}
		}
	}
	if newest == "" {
		return ""
	}
	return "10.99." + newest
}

func roots(file string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading %s: no PEM", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return []*x509.Certificate{c}, err
}
