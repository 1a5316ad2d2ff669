package limit

import (
	"strconv"
	"strings"
	"time"

	"github.com/signet-mesh/signet/mesh/policy"
)

// Names of the fields: draft-ietf-httpapi-ratelimit-headers-10 and RFC 9110 section 10.2.3.
const (
	fieldPolicy     = "ratelimit-policy"
	fieldLimit      = "ratelimit"
	fieldRetryAfter = "retry-after"
)

// Field is a header field. Name is lower case.
type Field struct{ Name, Value string }

// fieldParts are what of a rule's fields is always the same.
type fieldParts struct {
	policy string // "oven";q=20;w=1
	limit  string // "oven";r=
}

func newFieldParts(name string, b *Bucket) fieldParts {
	name = quote(name)
	p := fieldParts{policy: name + ";q=" + strconv.FormatUint(uint64(b.Requests), 10), limit: name + ";r="}
	switch {
	case b.Calendar == policy.Limit_Day:
		p.policy += ";w=86400"
	case b.Calendar == 0:
		p.policy += ";w=" + seconds(b.Period)
	}
	return p
}

// quote writes a string of RFC 9651 section 3.3.3; what can't stand in one is '?'.
func quote(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, c := range s {
		switch {
		case c < ' ' || c > '~':
			c = '?'
		case c == '"' || c == '\\':
			out.WriteByte('\\')
		}
		out.WriteByte(byte(c))
	}
	out.WriteByte('"')
	return out.String()
}

// seconds rounds up to whole seconds, at least one. Less than a microsecond more is what intervals were rounded up by.
func seconds(d time.Duration) string {
	return strconv.FormatInt(max(int64((d+time.Second-time.Microsecond)/time.Second), 1), 10)
}

// AppendFields appends the fields ratelimit-policy and ratelimit (draft-ietf-httpapi-ratelimit-headers) of a verdict, and
// retry-after of a refusal: nothing if no rule matched, only retry-after if the limit's store could not be asked. The window
// of a month is left out, for months differ; so is the partition key, which would show what callers are told apart by.
func (v *Verdict) AppendFields(dst []Field) []Field {
	if v.Refused != nil {
		dst = append(dst, Field{fieldRetryAfter, seconds(v.Retry)})
	}
	if v.Tightest == nil || v.Tightest.fields == nil || v.StoreAway {
		return dst
	}
	p := v.Tightest.fields
	remaining := strconv.FormatUint(uint64(v.Grant.Remaining), 10)
	return append(dst, Field{fieldPolicy, p.policy}, Field{fieldLimit, p.limit + remaining + ";t=" + seconds(v.Grant.Reset)})
}
