package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultBackoff is the base of the exponential back-off between attempts (Envoy's base_interval).
const DefaultBackoff = 25 * time.Millisecond

// On is a set of conditions under which a request may be tried again (Envoy's x-envoy-retry-on).
type On uint16

// The conditions.
const (
	On5xx On = 1 << iota
	OnGatewayError
	OnReset
	OnResetBeforeRequest
	OnConnectFailure
	OnRefusedStream
	OnRetriable4xx
	OnRetriableStatusCodes
	OnCancelled         // grpc-status 1
	OnDeadlineExceeded  // grpc-status 4
	OnResourceExhausted // grpc-status 8
	OnInternal          // grpc-status 13
	OnUnavailable       // grpc-status 14
)

// DefaultOn is Istio's default: connect-failure,refused-stream,unavailable,cancelled.
const DefaultOn = OnConnectFailure | OnRefusedStream | OnUnavailable | OnCancelled

// Retry says when a request is tried again. The zero value is never.
type Retry struct {
	// Attempts is how many times at most after the first.
	Attempts int
	// PerTryTimeout limits each try, the first included; 0 is none of its own.
	PerTryTimeout time.Duration
	On            On
	// StatusCodes are those of OnRetriableStatusCodes.
	StatusCodes []int
	// Explicit says that somebody wrote retryOn: only then may a request be repeated that could have been processed and
	// whose method is not idempotent.
	Explicit bool
	// Backoff is the base of Delay; 0 means DefaultBackoff.
	Backoff time.Duration
}

// DefaultRetry is what applies where a VirtualService says nothing of retries: two, on DefaultOn.
func DefaultRetry() Retry { return Retry{Attempts: 2, On: DefaultOn, Backoff: DefaultBackoff} }

// ParseRetryOn reads Istio's retryOn: conditions and status codes, separated by commas. envoy-ratelimited,
// retriable-headers and http3-post-connect-failure are taken and name nothing that happens here; an unknown word is an
// error that quotes it.
func ParseRetryOn(s string) (On, []int, error) {
	var on On
	var codes []int
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		if word == "" {
			continue
		}
		if n, err := strconv.Atoi(word); err == nil {
			if n < 100 || n > 599 {
				return 0, nil, fmt.Errorf("parsing retryOn %q: %q is not a status code", s, word)
			}
			on |= OnRetriableStatusCodes
			codes = append(codes, n)
			continue
		}
		bit, ok := condition(word)
		if !ok {
			return 0, nil, fmt.Errorf("parsing retryOn %q: %q is no condition", s, word)
		}
		on |= bit
	}
	return on, codes, nil
}

func condition(word string) (bit On, ok bool) {
	switch word {
	case "5xx":
		return On5xx, true
	case "gateway-error":
		return OnGatewayError, true
	case "reset":
		return OnReset, true
	case "reset-before-request":
		return OnResetBeforeRequest, true
	case "connect-failure":
		return OnConnectFailure, true
	case "refused-stream":
		return OnRefusedStream, true
	case "retriable-4xx":
		return OnRetriable4xx, true
	case "retriable-status-codes":
		return OnRetriableStatusCodes, true
	case "cancelled":
		return OnCancelled, true
	case "deadline-exceeded":
		return OnDeadlineExceeded, true
	case "resource-exhausted":
		return OnResourceExhausted, true
	case "internal":
		return OnInternal, true
	case "unavailable":
		return OnUnavailable, true
	case "envoy-ratelimited", "retriable-headers", "http3-post-connect-failure":
		return 0, true
	}
	return 0, false
}

// Outcome is what is known of one try. The zero value is never retried.
type Outcome struct {
	// ConnectFailure: no usable connection came about (refused, timed out, handshake failed); nothing of the request left.
	ConnectFailure bool
	// Refused: the peer said that it processed nothing (HTTP/2 REFUSED_STREAM).
	Refused bool
	// Reset: the connection ended before a whole response head was there.
	Reset bool
	// Unsent, with Reset: before a byte of the request was written to it.
	Unsent bool
	// Stale, with Reset: it had been idle in the pool and ended before the first byte of a response. The peer most likely
	// closed it before it saw the request, but nobody can know.
	Stale bool
	// Timeout: PerTryTimeout went by without a response head.
	Timeout bool
	// Status is that of a response head, 0 for none; GRPCStatus its grpc-status field, "" for none.
	Status     int
	GRPCStatus string
	// Idempotent says that the method is (IdempotentMethod).
	Idempotent bool
}

// IdempotentMethod reports whether a method is idempotent by RFC 9110 section 9.2.2.
func IdempotentMethod(m string) bool {
	switch m {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// Judge says whether a request whose try ended so may be tried once more. The caller counts Attempts, and asks only for
// requests whose body it can send again from the first byte.
//
// What can't have been processed is repeated for every method. What may have been is repeated only if the conditions name
// what happened, and then only if the method is idempotent or somebody wrote retryOn. A reused idle connection that ended
// without an answer is repeated for idempotent methods under any policy (RFC 9110 section 9.2.2).
func (r *Retry) Judge(o Outcome) bool {
	if r.Attempts <= 0 {
		return false
	}
	const broken = OnReset | On5xx | OnGatewayError
	may := o.Idempotent || r.Explicit
	switch {
	case o.ConnectFailure:
		return r.On&(broken|OnConnectFailure|OnResetBeforeRequest) != 0
	case o.Refused:
		return r.On&(broken|OnRefusedStream) != 0
	case o.Reset && o.Unsent:
		return r.On != 0
	case o.Reset && o.Stale && o.Idempotent:
		return r.On != 0
	case o.Reset || o.Timeout:
		return may && r.On&broken != 0
	}
	return may && (r.wantsStatus(o.Status) || r.wantsGRPC(o.GRPCStatus))
}

func (r *Retry) wantsStatus(status int) bool {
	switch {
	case r.On&On5xx != 0 && status >= 500 && status <= 599:
		return true
	case r.On&OnGatewayError != 0 && status >= 502 && status <= 504:
		return true
	case r.On&OnRetriable4xx != 0 && status == 409:
		return true
	}
	return r.On&OnRetriableStatusCodes != 0 && slices.Contains(r.StatusCodes, status)
}

func (r *Retry) wantsGRPC(status string) bool {
	var bit On
	switch status {
	case "1":
		bit = OnCancelled
	case "4":
		bit = OnDeadlineExceeded
	case "8":
		bit = OnResourceExhausted
	case "13":
		bit = OnInternal
	case "14":
		bit = OnUnavailable
	}
	return r.On&bit != 0
}

// Delay is how long to wait before retry number made+1: uniform in [0, min((2^(made+1)-1), 10) * Backoff), Envoy's fully
// jittered back-off. random is uniform over uint64.
func (r *Retry) Delay(made int, random uint64) time.Duration {
	base := r.Backoff
	if base <= 0 {
		base = DefaultBackoff
	}
	factor := time.Duration(10)
	if made < 3 {
		factor = 1<<(max(made, 0)+1) - 1
	}
	return time.Duration(random % uint64(factor*base))
}

// Backoff is Delay of a policy that may be nil (0 then), with a random number of its own.
func Backoff(r *Retry, made int) time.Duration {
	if r == nil {
		return 0
	}
	return r.Delay(made, rand.Uint64())
}
