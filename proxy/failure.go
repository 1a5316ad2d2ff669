package proxy

// Code names how a step of the corridor failed. The zero value is no failure.
type Code uint8

// The failures. Each has exactly one row in answers.
const (
	OK Code = iota
	BadRequest
	BadPath
	HeadTooLarge
	TargetTooLong
	BodyTooLarge
	RequestTimeout
	UnsupportedTransferEncoding
	UnsupportedVersion
	UnsupportedUpgrade
	ExpectationFailed
	Denied
	AuthorityDenied
	AuthorityFailed
	TokenInvalid
	RateLimited
	NoRoute
	UnknownHost
	ForbiddenTarget
	NoHealthyUpstream
	UpstreamConnect
	UpstreamIdentity
	UpstreamReset
	UpstreamProtocol
	UpstreamTimeout
	UpstreamOverflow
	DownstreamGone
	ShuttingDown
	Internal
	codes // how many there are
)

// Answer is what a failure becomes on the wire, in logs and in metrics.
type Answer struct {
	// Status is the HTTP status; 0 means that nothing is sent and the connection is closed.
	Status int
	// Flag is Envoy's response flag, "-" for none.
	Flag string
	// Detail is Envoy's response code detail, "" where the failure brings its own.
	Detail string
	// Body is sent as text/plain, "" where the failure brings its own.
	Body string
	// Close says that the downstream connection can't be used again.
	Close bool
}

// answers is the one place where errors become protocol. An unknown code is a 500.
var answers = [codes]Answer{
	OK:                          {Flag: "-"},
	BadRequest:                  {400, "DPE", "http1.codec_error", "bad request", true},
	BadPath:                     {400, "DPE", "path_normalization_failed", "bad path", true},
	HeadTooLarge:                {431, "DPE", "request_headers_too_large", "request header fields too large", true},
	TargetTooLong:               {414, "DPE", "request_target_too_long", "request target too long", true},
	BodyTooLarge:                {413, "DPE", "request_payload_too_large", "payload too large", true},
	RequestTimeout:              {408, "DI", "request_header_timeout", "request timeout", true},
	UnsupportedTransferEncoding: {501, "DPE", "http1.unsupported_transfer_encoding", "transfer encoding not supported", true},
	UnsupportedVersion:          {505, "DPE", "http1.unsupported_version", "HTTP version not supported", true},
	UnsupportedUpgrade:          {403, "-", "upgrade_failed", "upgrade not supported", true},
	ExpectationFailed:           {417, "DPE", "expectation_failed", "expectation failed", true},
	Denied:                      {403, "-", "", "RBAC: access denied", false},
	AuthorityDenied:             {403, "UAEX", "ext_authz_denied", "RBAC: access denied", false},
	AuthorityFailed:             {403, "UAEX", "ext_authz_error", "RBAC: access denied", false},
	TokenInvalid:                {401, "-", "jwt_authn_access_denied", "Jwt verification fails", false},
	RateLimited:                 {429, "RL", "request_rate_limited", "rate limited", false},
	NoRoute:                     {404, "NR", "route_not_found", "", false},
	UnknownHost:                 {502, "-", "direct_response", "", false},
	ForbiddenTarget:             {403, "-", "forbidden_target", "", false},
	NoHealthyUpstream:           {503, "UH", "no_healthy_upstream", "no healthy upstream", false},
	UpstreamConnect:             {503, "UF", "upstream_reset_before_response_started{connection_failure}", "upstream connect error or disconnect/reset before headers. reset reason: connection failure", false},
	UpstreamIdentity:            {503, "UF", "upstream_reset_before_response_started{connection_failure}", "upstream connect error or disconnect/reset before headers. reset reason: connection failure, transport failure reason: peer identity not expected", false},
	UpstreamReset:               {503, "UC", "upstream_reset_before_response_started{connection_termination}", "upstream connect error or disconnect/reset before headers. reset reason: connection termination", false},
	UpstreamProtocol:            {502, "UPE", "upstream_reset_before_response_started{protocol_error}", "upstream connect error or disconnect/reset before headers. reset reason: protocol error", false},
	UpstreamTimeout:             {504, "UT", "response_timeout", "upstream request timeout", false},
	UpstreamOverflow:            {503, "UO", "upstream_overflow", "upstream connect error or disconnect/reset before headers. reset reason: overflow", false},
	DownstreamGone:              {0, "DC", "downstream_remote_disconnect", "", true},
	ShuttingDown:                {503, "-", "shutting_down", "shutting down", true},
	Internal:                    {500, "-", "internal_error", "internal error", true},
}

// Answer is the row of the table for a code; an unknown code answers as Internal.
func (c Code) Answer() Answer {
	if c >= codes {
		return answers[Internal]
	}
	return answers[c]
}

// Failure is what a step returns when the exchange can't go on. It is an error.
type Failure struct {
	Code Code
	// Detail goes to the access log in place of the table's, Body to the client, "" for the table's.
	Detail, Body string
	// Status is in place of the table's where somebody else decides it (an authority), 0 for the table's.
	Status int
	// Fields go along with the answer.
	Fields []Field
	// Cause is for the log only, never for the client. May be nil.
	Cause error
}

// Error implements error.
func (f *Failure) Error() string {
	s := f.Detail
	if s == "" {
		s = f.Code.Answer().Detail
	}
	if f.Cause != nil {
		s += ": " + f.Cause.Error()
	}
	return s
}

// Unwrap gives the cause to errors.Is and errors.As.
func (f *Failure) Unwrap() error { return f.Cause }

// Fail builds a failure with a detail of its own for the log ("" for the table's).
func Fail(c Code, detail string, cause error) *Failure {
	return &Failure{Code: c, Detail: detail, Cause: cause}
}
