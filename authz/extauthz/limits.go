package extauthz

import (
	"time"

	"github.com/signet-mesh/signet/authz"
)

// Limits of what is sent to an authorizer and of what it may say. Beyond those of its answer it is no answer: the request
// is denied, fail open or not, save where it says otherwise.
const (
	// MaxEdits is how many headers, names of headers to remove and query parameters an answer may hold, each.
	MaxEdits = 64
	// MaxHeaderName and MaxHeaderValue are bytes of one header of an answer.
	MaxHeaderName  = authz.MaxHeaderName
	MaxHeaderValue = authz.MaxHeaderValue
	// MaxDenialBody is how many bytes the body of a denial may have.
	MaxDenialBody = 64 << 10
	// MaxCheckBytes is how large a CheckRequest may be, as gRPC servers read them by default. A request that takes more is
	// answered 400.
	MaxCheckBytes = 4 << 20
	// MaxAnswerBytes is how large a CheckResponse may be; a larger one counts as a failure of the authorizer.
	MaxAnswerBytes = 1 << 20
	// MaxAnswerHead is how many bytes of headers an HTTP authorizer may answer with; more count as its failure.
	MaxAnswerHead = 64 << 10
	// MaxConnections is how many connections to an HTTP authorizer there are at most; checks beyond wait.
	MaxConnections = 1024
	// defaultTimeout is Istio's.
	defaultTimeout = 600 * time.Second
	// dialTimeout is how long a connection may take to come up, whatever a check's own timeout.
	dialTimeout = 10 * time.Second
	// maxBackoff is the longest pause between attempts to connect over gRPC.
	maxBackoff = time.Second
	// idleTimeout is how long an unused connection to an HTTP authorizer is kept.
	idleTimeout = 60 * time.Second
	// logEvery is how often one client's failures are logged.
	logEvery = 10 * time.Second
)
