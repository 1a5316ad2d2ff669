package sdsserver

import (
	"context"
	"fmt"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Run serves until ctx ends, then closes every stream, removes the socket and returns nil. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(ctx, s.cfg.Socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
	secretv3.RegisterSecretDiscoveryServiceServer(server, &service{
		source: s.cfg.Source,
		log:    s.cfg.Log,
		slots:  make(chan struct{}, MaxStreams),
	})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		<-ctx.Done()
		server.Stop() // streams never end by themselves, so there is nothing to be graceful about
		return nil
	})
	close(s.listening)
	s.cfg.Log.Info("serving SDS", "socket", s.cfg.Socket)
	err = server.Serve(&limited{Listener: l, slots: make(chan struct{}, MaxConnections)})
	stopped := ctx.Err() != nil
	cancel()
	_ = group.Wait() // it returns nil only
	if err != nil && !stopped {
		return fmt.Errorf("serving SDS on %q: %w", s.cfg.Socket, err)
	}
	return nil
}
