package up

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// procfileName is what a Procfile is called.
const procfileName = "Procfile"

// Program is one entry of a Procfile.
type Program struct{ Name, Command string }

const maxProcfileBytes = 1 << 20

var entry = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*):\s*(.+)$`)

// LoadProcfile reads foreman's format: "name: command" a line; empty lines and lines that begin with '#' don't count. A file
// that is not there has no programs. Errors name file and line.
func LoadProcfile(path string) ([]Program, error) { return readProcfile(path).parse(path) }

// source is what a Procfile was found to be. It can be compared.
type source struct {
	there bool
	text  string
	fault string // why it can't be read, "" if it can
}

// blank reports whether a file that is there says nothing: an editor has just emptied it.
func (s source) blank() bool { return s.there && s.fault == "" && strings.TrimSpace(s.text) == "" }

func readProcfile(path string) source {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return source{}
	}
	if err != nil {
		return source{there: true, fault: err.Error()}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProcfileBytes+1))
	switch {
	case err != nil:
		return source{there: true, fault: err.Error()}
	case len(text) > maxProcfileBytes:
		return source{there: true, fault: fmt.Sprintf("%s: it has more than %d bytes", path, maxProcfileBytes)}
	}
	return source{there: true, text: string(text)}
}

func (s source) parse(path string) ([]Program, error) {
	if s.fault != "" {
		return nil, &ProcfileError{"reading Procfile: " + s.fault}
	}
	var out []Program
	seen := map[string]int{}
	n := 0
	for line := range strings.Lines(s.text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := entry.FindStringSubmatch(line)
		switch {
		case m == nil:
			return nil, &ProcfileError{fmt.Sprintf("%s:%d: want \"name: command\", found %q", path, n, line)}
		case strings.ContainsRune(line, 0):
			return nil, &ProcfileError{fmt.Sprintf("%s:%d: there is a NUL in %q", path, n, line)}
		case seen[m[1]] > 0:
			return nil, &ProcfileError{fmt.Sprintf("%s:%d: %q is there already, at line %d", path, n, m[1], seen[m[1]])}
		}
		seen[m[1]] = n
		out = append(out, Program{m[1], m[2]})
	}
	return out, nil
}

// ProcfileError is a mistake in a Procfile.
type ProcfileError struct{ text string }

// Error implements error.
func (e *ProcfileError) Error() string { return e.text }

// ExitCode marks it as the caller's mistake.
func (e *ProcfileError) ExitCode() int { return 2 }
