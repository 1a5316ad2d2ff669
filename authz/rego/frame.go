package rego

import (
	"strings"
	"unsafe"

	"github.com/signet-mesh/signet/authz"
)

// maxSteps is how many elements native code looks at before it leaves a request to topdown, which has a timeout.
const maxSteps = 4096

// sizes are how much memory a native evaluation needs.
type sizes struct {
	slots  int // variables
	kept   int // values of rules
	alikes int // rules whose definitions all have one value
}

// frame is the memory of one native evaluation. It is reused and belongs to one goroutine at a time.
type frame struct {
	c       *authz.Connection
	r       *authz.Request
	decoded bool
	// bail says that native code is not sure of what topdown would say: topdown is asked.
	bail   bool
	split  bool // segs are there
	joined bool // joint is there
	steps  int

	alikes []uint8
	kept   []value
	slots  []value // never read before they were written
	segs   []string
	joint  string // path and query, in buf
	buf    []byte
	shard  int // where it counts
}

func newFrame(n sizes, shard int) *frame {
	return &frame{slots: make([]value, n.slots), kept: make([]value, n.kept), alikes: make([]uint8, n.alikes), shard: shard}
}

func (f *frame) reset(c *authz.Connection, r *authz.Request, decoded bool) {
	f.c, f.r, f.decoded = c, r, decoded
	f.bail, f.split, f.joined, f.steps = false, false, false, 0
	clear(f.alikes)
	clear(f.kept)
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
	segs, rest := f.segs[:0], flat(f.r, f.decoded)
	for {
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			f.segs = append(segs, rest)
			return f.segs
		}
		segs = append(segs, rest[:i])
		rest = rest[i+1:]
	}
}

// target is attributes.request.http.path, "" without a request. With a query it is joined in memory that the frame keeps.
func (f *frame) target() string {
	if f.r == nil {
		return ""
	}
	if f.r.Query == "" {
		return pathOf(f.r, f.decoded)
	}
	if !f.joined {
		f.joined = true
		f.buf = append(append(f.buf[:0], pathOf(f.r, f.decoded)...), f.r.Query...)
		f.joint = unsafe.String(unsafe.SliceData(f.buf), len(f.buf))
	}
	return f.joint
}
