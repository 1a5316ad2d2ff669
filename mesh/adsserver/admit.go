package adsserver

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
)

// caller says who calls, and until when what proved it is valid (zero: for ever, where Identify is not about TLS).
func (s *Server) caller(ctx context.Context) (identity.ID, time.Time, error) {
	id, err := s.cfg.Identify(ctx)
	if err == nil && id.IsZero() {
		err = errors.New("the caller is nobody")
	}
	if err != nil {
		return identity.ID{}, time.Time{}, status.Errorf(codes.Unauthenticated, "identifying caller: %v", err)
	}
	var expires time.Time
	if info, ok := tlsInfo(ctx); ok && len(info.State.PeerCertificates) > 0 {
		expires = info.State.PeerCertificates[0].NotAfter
	}
	if !expires.IsZero() && !time.Now().Before(expires) {
		return identity.ID{}, time.Time{}, errExpired(expires)
	}
	return id, expires, nil
}

func errExpired(at time.Time) error {
	return status.Errorf(codes.Unauthenticated, "the caller's certificate expired at %s", at.UTC().Format(time.RFC3339))
}

// identify is the default of Config.Identify.
func identify(ctx context.Context) (identity.ID, error) {
	info, ok := tlsInfo(ctx)
	if !ok {
		return identity.ID{}, errors.New("the connection is not TLS")
	}
	p, err := certs.PeerOf(info.State)
	return p.ID, err
}

func tlsInfo(ctx context.Context) (credentials.TLSInfo, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return credentials.TLSInfo{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	return info, ok
}

func remote(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// maxNodeBytes is the length of a node.id: two Kubernetes names of 253 and the slash.
const maxNodeBytes = 507

// parseNode reads node.id.
func parseNode(id string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(id, "/")
	if len(id) > maxNodeBytes {
		return "", "", status.Errorf(codes.InvalidArgument, "node.id is longer than %d bytes", maxNodeBytes)
	}
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", status.Errorf(codes.InvalidArgument, "node.id %q is not NAMESPACE/WORKLOAD", id)
	}
	return namespace, name, nil
}

// viewOf is the node's view, if the caller is the node's workload. A node that does not exist and a node that is somebody
// else get the same answer.
func viewOf(find func(namespace, name string) (*mesh.View, bool), namespace, name string, caller identity.ID) (*mesh.View, error) {
	v, ok := find(namespace, name)
	if !ok || v == nil || v.Self == nil || v.Self.ID.IsZero() || v.Self.ID != caller {
		return nil, status.Errorf(codes.PermissionDenied, "%s is not the identity of a workload %s/%s", caller, namespace, name)
	}
	return v, nil
}
