package house_test

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

// judgeComments wants a package comment everywhere.
func judgeComments(t *tree) []string {
	var out []string
	for _, r := range t.sorted() {
		files := r.product()
		if len(files) == 0 {
			files = r.files
		}
		if !slices.ContainsFunc(files, func(f *file) bool { return f.ast.Doc.Text() != "" }) {
			out = append(out, fmt.Sprintf("%s: package %s has no package comment", r.dir, files[0].ast.Name.Name))
		}
	}
	return out
}

// A function of more than longLines lines does not fit a screen; at most one in a hundred may be so.
const longLines = 70

// longFunctions lists product functions over longLines, and counts all.
func longFunctions(t *tree) (long []string, all int) {
	for _, r := range t.sorted() {
		for _, f := range r.product() {
			for _, d := range f.ast.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				all++
				lines := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
				if lines > longLines {
					long = append(long, fmt.Sprintf("%s: %s has %d lines", f.at(fn), fn.Name.Name, lines))
				}
			}
		}
	}
	return long, all
}

func judgeLength(t *tree) []string {
	if long, all := longFunctions(t); len(long)*100 > all {
		return append(long, fmt.Sprintf("%d of %d functions have more than %d lines", len(long), all, longLines))
	}
	return nil
}

// judgeInit wants no init functions.
func judgeInit(t *tree) []string {
	var out []string
	for _, r := range t.sorted() {
		for _, f := range r.files {
			for _, d := range f.ast.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					out = append(out, f.at(fn)+": func init")
				}
			}
		}
	}
	return out
}

var emptyNames = []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "misc"}

// judgeNames wants packages and files that are named for what they hold.
func judgeNames(t *tree) []string {
	var out []string
	for _, r := range t.sorted() {
		if slices.Contains(emptyNames, path.Base(r.dir)) {
			out = append(out, r.dir+": a package of this name")
		}
		for _, f := range r.files {
			name := strings.TrimSuffix(strings.TrimSuffix(path.Base(f.path), ".go"), "_test")
			if slices.Contains(emptyNames, name) || slices.Contains(emptyNames, f.ast.Name.Name) {
				out = append(out, f.path+": a file or package of this name")
			}
		}
	}
	return out
}

// judgeSkips wants tests that run.
func judgeSkips(t *tree) []string {
	var out []string
	for _, r := range t.sorted() {
		for _, f := range r.files {
			ast.Inspect(f.ast, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) {
					out = append(out, fmt.Sprintf("%s: %s.%s", f.at(n), x.Name, sel.Sel.Name))
				}
				return true
			})
		}
	}
	return out
}

var replaceLine = regexp.MustCompile(`(?m)^\s*replace\b`)

// judgeReplace wants no replace in any go.mod.
func judgeReplace(t *tree) []string {
	var out []string
	for p, text := range t.texts {
		if path.Base(p) == "go.mod" && replaceLine.MatchString(text) {
			out = append(out, p+": has a replace")
		}
	}
	slices.Sort(out)
	return out
}

// words finds what must not be written. Texts without any of the cues are not searched: a regular expression over the whole tree
// costs seconds under the race detector.
type words struct {
	cues []string
	find *regexp.Regexp
}

// The words are put together here, so that this file is free of them.
var (
	leftovers = words{[]string{"TO" + "DO", "FIX" + "ME"}, regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)}
)

func judgeWords(t *tree, w words) []string {
	var out []string
	for p, text := range t.texts {
		if !slices.ContainsFunc(w.cues, func(cue string) bool { return strings.Contains(text, cue) }) {
			continue
		}
		if at := w.find.FindStringIndex(text); at != nil {
			line := 1 + strings.Count(text[:at[0]], "\n")
			out = append(out, fmt.Sprintf("%s:%d: %q", p, line, text[at[0]:at[1]]))
		}
	}
	slices.Sort(out)
	return out
}

var steps = regexp.MustCompile(`1 accept( +[0-9] [A-Za-z]+( [a-z]+)?)+`)

// judgeCorridors wants the numbered steps of each corridor's package comment in docs/architecture.md, as they are.
func judgeCorridors(t *tree) []string {
	var out []string
	for _, dir := range []string{"proxy/inbound", "proxy/outbound"} {
		r := t.rooms[dir]
		if r == nil {
			out = append(out, dir+": is not there")
			continue
		}
		var doc string
		for _, f := range r.product() {
			doc += f.ast.Doc.Text()
		}
		line := steps.FindString(doc)
		if line == "" {
			out = append(out, dir+": its package comment lacks the numbered steps")
		} else if !strings.Contains(t.texts["docs/architecture.md"], line) {
			out = append(out, fmt.Sprintf("docs/architecture.md: lacks %q, the steps of %s", line, dir))
		}
	}
	return out
}
