package lease

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"
)

// state is how the store is.
type state int32

const (
	starting state = iota // Run has not heard the store yet
	up
	lost
	stopped
)

func (s state) String() string {
	return [...]string{"starting", "up", "away", "stopped"}[s]
}

// Status is how Leases are, for a person and for metrics.
type Status struct {
	// State is starting, up, away or stopped; Since is when it began.
	State string
	Since time.Time
	// Error is why the store is away, at most 256 bytes and without secrets; "" if it is not.
	Error string
	// Address is the first server of the URL.
	Address string
	// Replicas is how many proxies share the store, as last heard.
	Replicas int
	// RoundTrips counts what was sent to the store, a batch of calls as one.
	RoundTrips uint64
	// Leases is the keys with a lease; Full counts requests that got none for want of room.
	Leases int
	Full   uint64
}

// Status says how the store and the leases are.
func (l *Leases) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{
		State: state(l.state.Load()).String(), Since: l.since, Error: l.err, Address: l.options.Addrs[0],
		Replicas: l.Replicas(), RoundTrips: l.trips.Load(), Leases: int(l.table.size.Load()), Full: l.full.Load(),
	}
}

const maxError = 256 // bytes

// redacted is an error as it may be shown. Redis itself never repeats a password; should one be in there, it goes.
func (l *Leases) redacted(err error) string {
	var timeout net.Error
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		text = "no answer within " + callTimeout.String() + ": " + text
	}
	if p := l.options.Password; p != "" {
		text = strings.ReplaceAll(text, p, "[password]")
	}
	return strings.ToValidUTF8(text[:min(len(text), maxError)], "")
}
