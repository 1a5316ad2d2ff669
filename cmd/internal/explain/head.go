package explain

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
)

// head writes a question as the bytes of a request and reads them with the codec of the data path: what that would refuse
// is refused here. An error is a mistake in the question.
func (q *Question) head(authority string) (*proxy.Head, error) {
	method, target := q.Method, q.Path
	if method == "" {
		method = "GET"
	}
	if target == "" {
		target = "/"
	}
	if !strings.HasPrefix(target, "/") && target != "*" {
		return nil, fmt.Errorf("path %q does not begin with '/'", target)
	}
	if len(q.Body) > MaxBody {
		return nil, fmt.Errorf("body has %d bytes; at most %d", len(q.Body), MaxBody)
	}
	if strings.ContainsAny(method+target+authority, " \t\r\n\x00") {
		return nil, errors.New("the request is not one that a sidecar reads: method, path or host holds a space or a line break")
	}
	var b strings.Builder
	b.WriteString(method + " " + target + " HTTP/1.1\r\n")
	for _, f := range q.Headers {
		switch name := strings.ToLower(f.Name); {
		case name == "host":
			if authority = f.Value; strings.ContainsAny(authority, " \t\r\n\x00") {
				return nil, fmt.Errorf("header %q holds a space or a line break", f.Name)
			}
			continue
		case name == "content-length" || name == "transfer-encoding" || name == "connection":
			return nil, fmt.Errorf("header %q frames a message and can't be asked about", f.Name)
		case strings.ContainsAny(f.Name+f.Value, "\r\n\x00"):
			return nil, fmt.Errorf("header %q holds a line break", f.Name)
		}
		b.WriteString(f.Name + ": " + f.Value + "\r\n")
	}
	b.WriteString("host: " + authority + "\r\n")
	if len(q.Body) > 0 {
		b.WriteString("content-length: " + strconv.Itoa(len(q.Body)) + "\r\n")
	}
	b.WriteString("\r\n")
	h := &proxy.Head{}
	n, err := http1.ParseRequest([]byte(b.String()), h, nil)
	if err != nil {
		return nil, fmt.Errorf("the request is not one that a sidecar reads: %w", err)
	}
	if n != b.Len() {
		return nil, errors.New("the request is not one that a sidecar reads: it is more than one head")
	}
	return h, nil
}

// body is a body that is all there.
type body []byte

// PeekBody implements judge.Body.
func (b body) PeekBody(most int) ([]byte, bool, *proxy.Failure) {
	if len(b) > most {
		return b[:most], false, nil
	}
	return b, true, nil
}
