package sdsserver

import (
	"errors"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/sds"
)

// wildcard is the explicit name of everything (xDS protocol, "How the client specifies what resources to return").
const wildcard = "*"

// subscription is what a client wants: everything, or certain names. The zero value wants nothing.
type subscription struct {
	all   bool
	names map[string]bool
}

// newSubscription reads the names of a first request: none means everything.
func newSubscription(names []string) subscription {
	s := subscription{all: len(names) == 0, names: map[string]bool{}}
	for _, n := range names {
		if n == wildcard {
			s.all = true
			continue
		}
		s.names[n] = true
	}
	return s
}

func (s subscription) empty() bool { return !s.all && len(s.names) == 0 }

// resolve gives what exists of what is wanted, and the names that don't exist.
func (s subscription) resolve(set *sds.Set) (secrets []sds.Secret, unknown []string) {
	if s.empty() {
		return nil, nil
	}
	names := slices.Sorted(maps.Keys(s.names))
	secrets, err := set.Select(names)
	if missing := (*sds.UnknownError)(nil); errors.As(err, &missing) {
		unknown = missing.Names
	}
	if s.all && len(names) > 0 {
		secrets, _ = set.Select(nil) // everything never lacks anything
	}
	return secrets, unknown
}

func (s subscription) equal(o subscription) bool {
	return s.all == o.all && maps.Equal(s.names, o.names)
}

// checkRequest applies the limits.
func checkRequest(typeURL string, names ...[]string) error {
	if typeURL != "" && typeURL != secretType {
		return status.Errorf(codes.InvalidArgument, "type %q is not served here, only %q", typeURL, secretType)
	}
	count := 0
	for _, list := range names {
		count += len(list)
		for _, n := range list {
			if len(n) > MaxNameBytes {
				return status.Errorf(codes.InvalidArgument, "resource name %q... has %d bytes, the limit is %d", n[:64], len(n), MaxNameBytes)
			}
		}
	}
	if count > MaxNames {
		return status.Errorf(codes.InvalidArgument, "%d resource names, the limit is %d", count, MaxNames)
	}
	return nil
}
