package sidecar

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory keeps the heap a tenth below the container's limit, so that the collector works harder before the kernel kills.
// GOMEMLIMIT, where it is set, wins. It returns the limit, 0 for none.
func limitMemory(root string) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	for _, name := range [...]string{"memory.max", "memory/memory.limit_in_bytes"} { // cgroup v2, v1
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/2 { // "max", and v1's none
			return 0
		}
		debug.SetMemoryLimit(n / 10 * 9)
		return n / 10 * 9
	}
	return 0
}
