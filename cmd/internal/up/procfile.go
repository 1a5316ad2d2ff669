package up

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// Program is one entry of a Procfile.
type Program struct{ Name, Command string }

const maxProcfileBytes = 1 << 20

var entry = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*):\s*(.+)$`)

// LoadProcfile reads foreman's format: "name: command" a line; empty lines and lines that begin with '#' don't count. A file
// that is not there has no programs. Errors name file and line.
func LoadProcfile(path string) ([]Program, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading Procfile: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxProcfileBytes {
		return nil, &ProcfileError{fmt.Sprintf("%s: %d bytes; at most %d", path, st.Size(), maxProcfileBytes)}
	}
	var out []Program
	seen := map[string]int{}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		m := entry.FindStringSubmatch(line)
		if m == nil {
			return nil, &ProcfileError{fmt.Sprintf("%s:%d: want \"name: command\", found %q", path, n, line)}
		}
		if was := seen[m[1]]; was > 0 {
			return nil, &ProcfileError{fmt.Sprintf("%s:%d: %q is there already, at line %d", path, n, m[1], was)}
		}
		seen[m[1]] = n
		out = append(out, Program{m[1], m[2]})
	}
	return out, sc.Err()
}

// ProcfileError is a mistake in a Procfile.
type ProcfileError struct{ text string }

// Error implements error.
func (e *ProcfileError) Error() string { return e.text }
