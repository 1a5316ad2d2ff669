package rego

import (
	"strings"
	"unsafe"

	"github.com/signet-mesh/signet/authz"
)

// maxSteps is how many elements native code looks at before it leaves a request to topdown, which has a timeout.
const maxSteps = 4096

// frame is the memory of one native evaluation. It is reused and belongs to one goroutine at a time.
type frame struct {
	c       *authz.Connection
	r       *authz.Request
	decoded bool
	slots   []value
	steps   int
	// bail says that native code is not sure of what topdown would say: topdown is asked.
	bail bool

	segs   []string // of parsed_path, once split
	split  bool
	target string // path and query, once joined in buf
	joined bool
	buf    []byte
}

func (f *frame) reset(c *authz.Connection, r *authz.Request, decoded bool) {
	clear(f.slots)
	clear(f.segs)
	*f = frame{c: c, r: r, decoded: decoded, slots: f.slots, segs: f.segs[:0], buf: f.buf[:0]}
}

// unsure gives up on this request.
func (f *frame) unsure() value {
	f.bail = true
	return value{kind: undefined}
}

func (f *frame) tick() {
	if f.steps++; f.steps > maxSteps {
		f.bail = true
	}
}

// segments are parsed_path.
func (f *frame) segments() []string {
	if f.split {
		return f.segs
	}
	f.split = true
	rest := flat(f.r, f.decoded)
	for {
		head, tail, more := strings.Cut(rest, "/")
		f.segs = append(f.segs, head)
		if !more {
			return f.segs
		}
		rest = tail
	}
}

// path is attributes.request.http.path. With a query it is joined in memory that the frame keeps.
func (f *frame) path() string {
	if f.r.Query == "" {
		return pathOf(f.r, f.decoded)
	}
	if !f.joined {
		f.joined = true
		f.buf = append(append(f.buf[:0], pathOf(f.r, f.decoded)...), f.r.Query...)
		f.target = unsafe.String(unsafe.SliceData(f.buf), len(f.buf))
	}
	return f.target
}
