package node

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart gives back the pages of the executable's code and constants that only the start needed: much of what is linked
// is set up before main and hardly used again. They are clean pages of the file; what is needed comes back from the page
// cache at its next use. Nothing is given back where that can't be told for sure.
func forgetStart() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var at mapping
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m, ok := parseMapping(lines.Text(), exe); ok {
			at = m
			continue
		}
		name, amount, _ := strings.Cut(lines.Text(), ":")
		none := strings.TrimSpace(amount) == "0 kB"
		switch {
		case name == "Anonymous":
			at.clean = at.clean && none // pages that were written, by the loader say, are no longer the file's
		case name == "Swap" && at.clean && none:
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, at.from, at.to-at.from, unix.MADV_DONTNEED)
		}
	}
}

// mapping is one line of /proc/self/smaps that begins a mapping.
type mapping struct {
	from, to uintptr
	clean    bool // of the executable, private, and never writable
}

// parseMapping reads FROM-TO PERMISSIONS OFFSET DEVICE INODE PATH.
func parseMapping(line, exe string) (mapping, bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || !strings.Contains(fields[0], "-") {
		return mapping{}, false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	from, err1 := strconv.ParseUint(first, 16, 64)
	to, err2 := strconv.ParseUint(last, 16, 64)
	if err1 != nil || err2 != nil {
		return mapping{}, false
	}
	clean := len(fields) == 6 && fields[5] == exe && (fields[1] == "r-xp" || fields[1] == "r--p")
	return mapping{uintptr(from), uintptr(to), clean}, true
}
