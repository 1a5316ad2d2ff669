package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

// net/http is the oracle: what this codec accepts, net/http accepts, and reads the same out of it. We accept, on purpose,
// three things that it does not:
//
//   - one empty line before a request (RFC 9112 section 2.2), which http.ReadRequest leaves to its caller;
//   - a malformed percent-escape in a path: the canonicaliser's to refuse, as BadPath;
//   - a Trailer field that announces a forbidden name: the field is hop-by-hop and dropped, the trailer itself refused.
//
// Of what it accepts we refuse much; the tables of refused messages say what.
func knownDifference(h *proxy.Head, raw []byte) bool {
	if _, err := url.PathUnescape(h.Path); err != nil {
		return true
	}
	return h.Body == proxy.BodyChunked && bytes.Contains(bytes.ToLower(raw), []byte("\r\ntrailer:"))
}

// fieldsOf are the end-to-end fields of an oracle's header, by lower-case name.
func fieldsOf(header http.Header) map[string][]string {
	drop := map[string]bool{}
	for _, list := range header["Connection"] {
		for _, option := range strings.Split(list, ",") {
			drop[strings.ToLower(strings.Trim(option, " \t"))] = true
		}
	}
	out := map[string][]string{}
	for name, values := range header {
		name = strings.ToLower(name)
		if classify(name) == plain && !drop[name] {
			out[name] = append(out[name], values...)
		}
	}
	return out
}

func checkFields(h *proxy.Head, header http.Header) error {
	ours, theirs := map[string][]string{}, fieldsOf(header)
	for _, f := range h.Fields {
		ours[f.Name] = append(ours[f.Name], f.Value)
	}
	if h.Get("pragma") == "no-cache" && ours["cache-control"] == nil {
		delete(theirs, "cache-control") // made up by net/http
	}
	if !reflect.DeepEqual(ours, theirs) {
		return fmt.Errorf("fields %q, oracle %q", ours, theirs)
	}
	return nil
}

func checkRequest(h *proxy.Head, req *http.Request) error {
	path, _ := url.PathUnescape(h.Path)
	query := strings.TrimPrefix(h.Query, "?")
	samePath := req.URL.Path == path || req.URL.Path == "" && h.Scheme != "" && (path == "/" || path == "*")
	switch {
	case req.Method != h.Method, req.Host != h.Authority, req.RequestURI != h.Target, req.ProtoMinor != h.Minor:
		return fmt.Errorf("%s, oracle %s %q %q", show(h), req.Method, req.Host, req.RequestURI)
	case !samePath || req.URL.RawQuery != query:
		return fmt.Errorf("%s, oracle path %q query %q", show(h), req.URL.Path, req.URL.RawQuery)
	case req.Close != h.Close:
		return fmt.Errorf("close %v, oracle %v", h.Close, req.Close)
	case (h.Body == proxy.BodyChunked) != (len(req.TransferEncoding) == 1):
		return fmt.Errorf("body %d, oracle %q", h.Body, req.TransferEncoding)
	case h.Body != proxy.BodyChunked && req.ContentLength != h.Length:
		return fmt.Errorf("length %d, oracle %d", h.Length, req.ContentLength)
	}
	return checkFields(h, req.Header)
}

// checkBody compares what Decoder makes of the bytes after a head with what the oracle reads.
func checkBody(h *proxy.Head, src []byte, oracle io.Reader) error {
	var d Decoder
	d.Reset(h.Body, h.Length, nil)
	body, _, done, err := decode(&d, string(src), len(src))
	if err != nil {
		return nil // stricter
	}
	theirs, oracleErr := io.ReadAll(oracle)
	if ends := done || d.CloseOK(); ends != (oracleErr == nil) || ends && body != string(theirs) {
		return fmt.Errorf("body %q, ended %v, oracle %q, %v", body, ends, theirs, oracleErr)
	}
	return nil
}

func FuzzRequest(f *testing.F) {
	for _, c := range accepted {
		f.Add([]byte(c.raw + "5\r\nhello\r\n0\r\n\r\n"))
	}
	for _, c := range refused {
		if len(c.raw) < 1<<10 {
			f.Add([]byte(c.raw))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := new(proxy.Head)
		n, err := ParseRequest(raw, h, nil)
		segmented(t, raw, n, err, func(b []byte, h *proxy.Head) (int, error) { return ParseRequest(b, h, nil) })
		if n == 0 || knownDifference(h, raw[:n]) {
			return
		}
		r := bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\r\n"))))
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("accepted %s, oracle: %v", show(h), err)
		}
		if err := checkRequest(h, req); err != nil {
			t.Fatal(err)
		}
		if err := checkBody(h, raw[n:], req.Body); err != nil {
			t.Fatal(err)
		}
		if h.Authority == "" {
			return // HTTP/1.0 without Host
		}
		out := AppendRequest(nil, h)
		again := new(proxy.Head)
		if n, err := ParseRequest(out, again, nil); n != len(out) || err != nil {
			t.Fatalf("wrote %q, read %d of %d bytes: %v", out, n, len(out), err)
		}
		h.Minor, h.Scheme = 1, ""
		if show(h) != show(again) {
			t.Fatalf("wrote %s, read %s", show(h), show(again))
		}
		r = bufio.NewReader(bytes.NewReader(out))
		if req, err = http.ReadRequest(r); err != nil || r.Buffered() != 0 {
			t.Fatalf("wrote %q, the oracle leaves %d bytes: %v", out, r.Buffered(), err)
		}
		if err := checkRequest(again, req); err != nil {
			t.Fatalf("wrote %q: %v", out, err)
		}
	})
}

// segmented checks that a head that comes byte by byte ends like the whole: consumed n, or refused with the code of err.
func segmented(t *testing.T, raw []byte, n int, err error, parse func([]byte, *proxy.Head) (int, error)) {
	if len(raw) > 4<<10 {
		return
	}
	h := new(proxy.Head)
	for end := 0; end <= len(raw); end++ {
		m, e := parse(raw[:end], h)
		if m == 0 && e == nil {
			continue
		}
		if m != n || (e == nil) != (err == nil) || e != nil && codeOf(t, e) != codeOf(t, err) {
			t.Fatalf("cut at %d: n = %d, %v; whole: n = %d, %v", end, m, e, n, err)
		}
		return
	}
	if n != 0 || err != nil {
		t.Fatalf("incomplete byte by byte; whole: n = %d, %v", n, err)
	}
}

func FuzzResponse(f *testing.F) {
	methods := []string{"GET", "HEAD", "CONNECT"}
	for _, c := range responses {
		f.Add(uint8(strings.Index("GHC", c.method[:1])), []byte(c.raw+"5\r\nhello\r\n0\r\n\r\n"))
	}
	for _, c := range refusedResponses {
		if len(c.raw) < 1<<10 {
			f.Add(uint8(0), []byte(c.raw))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		method := methods[int(which)%len(methods)]
		h := new(proxy.Head)
		n, err := ParseResponse(raw, h, method, nil)
		segmented(t, raw, n, err, func(b []byte, h *proxy.Head) (int, error) { return ParseResponse(b, h, method, nil) })
		if n == 0 || knownDifference(h, raw[:n]) {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("accepted %s, oracle: %v", show(h), err)
		}
		if resp.StatusCode != h.Status || resp.ProtoMinor != h.Minor {
			t.Fatalf("%s, oracle %s", show(h), resp.Status)
		}
		if err := checkFields(h, resp.Header); err != nil {
			t.Fatal(err)
		}
		if method != "CONNECT" { // the oracle knows no tunnels
			if err := checkBody(h, raw[n:], resp.Body); err != nil {
				t.Fatal(err)
			}
		}
		out := AppendResponse(nil, h)
		again := new(proxy.Head)
		if n, err := ParseResponse(out, again, method, nil); n != len(out) || err != nil {
			t.Fatalf("wrote %q, read %d of %d bytes: %v", out, n, len(out), err)
		}
		if again.Body != h.Body || again.Status != h.Status || len(again.Fields) != len(h.Fields) {
			t.Fatalf("wrote %s, read %s", show(h), show(again))
		}
	})
}

func FuzzDecoder(f *testing.F) {
	for _, c := range bodies {
		f.Add([]byte(c.raw))
	}
	for _, c := range refusedBodies {
		if len(c.raw) < 1<<10 {
			f.Add([]byte(c.raw))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var d Decoder
		d.Reset(proxy.BodyChunked, 0, nil)
		body, rest, done, err := decode(&d, string(raw), len(raw)+1)
		trailers := append([]proxy.Field(nil), d.Trailers()...)
		var other Decoder
		other.Reset(proxy.BodyChunked, 0, nil)
		body1, rest1, done1, err1 := decode(&other, string(raw), 1)
		if done != done1 || (err == nil) != (err1 == nil) || err == nil && (body != body1 || rest != rest1) || err != nil && codeOf(t, err) != codeOf(t, err1) {
			t.Fatalf("whole: %q %d %v %v; byte by byte: %q %d %v %v", body, rest, done, err, body1, rest1, done1, err1)
		}
		if !done {
			return
		}
		if theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw))); err != nil || string(theirs) != body {
			t.Fatalf("body %q, oracle %q, %v", body, theirs, err)
		}
		out := AppendLastChunk(AppendChunk(nil, []byte(body)), trailers)
		other.Reset(proxy.BodyChunked, 0, nil)
		body2, rest2, done2, err2 := decode(&other, string(out), len(out))
		if !done2 || err2 != nil || rest2 != 0 || body2 != body || len(other.Trailers()) != len(trailers) {
			t.Fatalf("wrote %q, read %q, %d left, %v, %v", out, body2, rest2, done2, err2)
		}
	})
}
