package http1

import (
	"bytes"

	"github.com/signet-mesh/signet/proxy"
)

// frame looks for the empty line that ends a head and checks that every line up to it ends in CRLF. It returns where the
// head starts (after one empty line, before a request) and the bytes up to and with its end; n is 0 when more are needed.
//
// How far it came is remembered in h, so that a head that arrives in k pieces costs its length and not k times its length;
// only the first line, while it is incomplete, is searched again. What fails depends on the bytes only, never on how they
// were cut.
func frame(buf []byte, h *proxy.Head, request bool, lim *Limits) (start, n int, f *proxy.Failure) {
	window, limit := buf, lim.headBytes()
	if len(window) > limit {
		window = window[:limit]
	}
	if request && len(window) > 0 && window[0] == '\r' {
		if len(window) == 1 {
			return 0, 0, nil
		}
		if window[1] != '\n' {
			return 0, 0, bad("bare_cr")
		}
		start = 2
	}
	at := h.Scanned()
	if at > len(window) {
		at = 0
	}
	if at == 0 {
		at = start
		end, f := startLine(window[start:], request, lim)
		if f != nil || end == 0 {
			return 0, 0, incomplete(buf, limit, f)
		}
		at += end
	}
	for {
		i := bytes.IndexByte(window[at:], '\n')
		if i < 0 {
			h.SetScanned(len(window))
			return 0, 0, incomplete(buf, limit, nil)
		}
		at += i + 1 // at least three, since a line was there before
		if window[at-2] != '\r' {
			return 0, 0, bad("bare_lf")
		}
		if window[at-3] == '\n' {
			return start, at, nil
		}
	}
}

// incomplete is the failure of a head whose end is not in the bytes at hand: f, or that it is too large, or none yet.
func incomplete(buf []byte, limit int, f *proxy.Failure) *proxy.Failure {
	if f == nil && len(buf) >= limit {
		return proxy.Fail(proxy.HeadTooLarge, "", nil)
	}
	return f
}

// startLine checks the first line as far as it is there, so that what can't become a head is refused before its end arrives.
// end counts the line with its CRLF, 0 when it is incomplete.
func startLine(b []byte, request bool, lim *Limits) (end int, f *proxy.Failure) {
	line := b
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		line, end = b[:i], i+1
	}
	if !request {
		if !bytes.HasPrefix(line, []byte("HTTP/1.")) && !(end == 0 && bytes.HasPrefix([]byte("HTTP/1."), line)) {
			return 0, badValue("status_line", string(line[:min(len(line), len("HTTP/1."))]))
		}
	} else if f := requestLinePrefix(line, lim); f != nil {
		return 0, f
	}
	if end > 0 && (len(line) == 0 || line[len(line)-1] != '\r') {
		return 0, bad("bare_lf")
	}
	return end, nil
}

// requestLinePrefix checks the method, and that the target is within its limit, of a request line that may be incomplete.
func requestLinePrefix(line []byte, lim *Limits) *proxy.Failure {
	i := 0
	for i < len(line) && lower[line[i]] != 0 {
		i++
	}
	switch {
	case i > maxMethod, i < len(line) && (i == 0 || line[i] != ' '):
		return badValue("method", string(line[:min(len(line), maxMethod)]))
	case i == len(line):
		return nil
	}
	target := line[i+1:]
	if n := lim.targetBytes(); len(target) > n {
		if bytes.IndexByte(target[:n+1], ' ') < 0 {
			return proxy.Fail(proxy.TargetTooLong, "", nil)
		}
	}
	return nil
}
