//go:build !linux

package socket

const supported = false

func (t *transfer) read(uintptr) bool  { return true }
func (t *transfer) write(uintptr) bool { return true }
