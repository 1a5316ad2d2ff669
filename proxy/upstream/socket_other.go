//go:build !linux

package upstream

import "syscall"

// bindWithoutPort leaves the socket as it is: the option is Linux's.
func bindWithoutPort(_, _ string, _ syscall.RawConn) error { return nil }

type look struct{}

// silent does not look elsewhere than on Linux: an idle connection counts as gone.
func (*look) silent(int) bool { return false }
