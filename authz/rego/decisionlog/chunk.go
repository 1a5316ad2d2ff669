package decisionlog

import (
	"bytes"
	"compress/gzip"
	"errors"
)

// errTooLarge means that an event does not fit in a chunk of its own.
var errTooLarge = errors.New("event is larger than a chunk")

// chunk is a gzipped JSON array that grows by events and never beyond limit. What the compressor holds back is taken for
// incompressible, and flushed out of it when the limit comes near, so that few flushes cost little.
type chunk struct {
	limit  int
	out    bytes.Buffer
	zip    *gzip.Writer
	events int
	held   int // bytes given to zip since its last flush
}

func newChunk(limit int) *chunk {
	c := &chunk{limit: limit}
	c.zip = gzip.NewWriter(&c.out)
	return c
}

// worst is the most bytes that n bytes take that zip still holds, with the end of array and stream: stored blocks add less
// than a thousandth, a flush and a gzip trailer fewer than 64 bytes.
func worst(n int) int { return n + n/1000 + 64 }

// add puts an event in. False means that there is no room: seal and reset first.
func (c *chunk) add(event []byte) (bool, error) {
	if c.held > 0 && c.out.Len()+worst(c.held+len(event)+1) > c.limit {
		if err := c.flush(); err != nil {
			return false, err
		}
	}
	fits := c.out.Len()+worst(len(event)+1) <= c.limit
	if !fits && c.events > 0 {
		return false, nil
	}
	separator := byte(',')
	if c.events == 0 {
		separator = '['
	}
	if _, err := c.zip.Write([]byte{separator}); err != nil {
		return false, err
	}
	if _, err := c.zip.Write(event); err != nil {
		return false, err
	}
	c.events++
	c.held += len(event) + 1
	if fits {
		return true, nil
	}
	// It may fit all the same, once compressed.
	if err := c.flush(); err != nil {
		return false, err
	}
	if c.out.Len()+worst(0) > c.limit {
		c.reset()
		return false, errTooLarge
	}
	return true, nil
}

func (c *chunk) flush() error {
	c.held = 0
	return c.zip.Flush()
}

// seal ends the array and hands it over with the number of its events; the chunk is empty again.
func (c *chunk) seal() ([]byte, int, error) {
	defer c.reset()
	if _, err := c.zip.Write([]byte{']'}); err != nil {
		return nil, c.events, err
	}
	if err := c.zip.Close(); err != nil {
		return nil, c.events, err
	}
	return bytes.Clone(c.out.Bytes()), c.events, nil
}

func (c *chunk) reset() {
	c.out.Reset()
	c.zip.Reset(&c.out)
	c.events, c.held = 0, 0
}
