package http1

import (
	"fmt"

	"github.com/signet-mesh/signet/proxy"
)

// maxQuoted is the most bytes of a peer's input that an error quotes.
const maxQuoted = 64

// bad is a malformed request. The detail is for the access log.
func bad(detail string) *proxy.Failure { return proxy.Fail(proxy.BadRequest, "http1."+detail, nil) }

// badValue is bad with the offending value, cut and quoted. Never for values that may be secret.
func badValue(detail, value string) *proxy.Failure {
	return proxy.Fail(proxy.BadRequest, "http1."+detail, quoted(value))
}

// tooLarge is a head or a trailer section beyond its limit.
func tooLarge(detail string) *proxy.Failure { return proxy.Fail(proxy.HeadTooLarge, detail, nil) }

func quoted(value string) error {
	if len(value) > maxQuoted {
		return fmt.Errorf("%q... (%d bytes)", value[:maxQuoted], len(value))
	}
	return fmt.Errorf("%q", value)
}

// fromUpstream turns a failure to read a request into the same failure to read a response.
func fromUpstream(f *proxy.Failure) *proxy.Failure {
	detail := f.Detail
	if detail == "" {
		detail = f.Code.Answer().Detail
	}
	return proxy.Fail(proxy.UpstreamProtocol, "upstream_"+detail, f.Cause)
}
