// Package house_test walks through the house: which package is where, who may import whom, and the habits of the tree. It reads
// the files itself, in this process, so that the test cache sees what it depends on; a `go list` in a subprocess would hide it.
package house_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/signet-mesh/signet"

// maxTextBytes is the size above which a file is not read for words.
const maxTextBytes = 1 << 20

// file is one Go file.
type file struct {
	path string
	test bool
	ast  *ast.File
	fset *token.FileSet
}

// at is where a node stands.
func (f *file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(n.Pos()).Line)
}

// imports lists the import paths of a file.
func (f *file) imports() []string {
	out := make([]string, 0, len(f.ast.Imports))
	for _, i := range f.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, p)
	}
	return out
}

// room is one directory of Go files of the root module.
type room struct {
	dir   string
	files []*file
}

// product yields the files that are not tests.
func (r *room) product() []*file {
	return slices.DeleteFunc(slices.Clone(r.files), func(f *file) bool { return f.test })
}

// tree is all there is to judge.
type tree struct {
	rooms map[string]*room
	texts map[string]string // every text file by path
}

// sorted lists the rooms in the order of their paths.
func (t *tree) sorted() []*room {
	out := make([]*room, 0, len(t.rooms))
	for _, r := range t.rooms {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *room) int { return strings.Compare(a.dir, b.dir) })
	return out
}

// read walks a file system whose root is that of the module. Directories with a go.mod of their own are other modules: their
// texts are read, their packages are not rooms of the house.
func read(root fs.FS) (*tree, error) {
	t := &tree{rooms: map[string]*room{}, texts: map[string]string{}}
	var elsewhere []string
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch {
			case p == ".git", p == ".cache", p == "bin", strings.HasSuffix(p, "testdata/fuzz"):
				return fs.SkipDir
			}
			if _, err := fs.Stat(root, path.Join(p, "go.mod")); err == nil && p != "." {
				elsewhere = append(elsewhere, p+"/")
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		src, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		if len(src) <= maxTextBytes && !bytes.ContainsRune(src, 0) && path.Base(p) != "go.sum" {
			t.texts[p] = string(src)
		}
		if !strings.HasSuffix(p, ".go") || strings.Contains(p, "testdata/") ||
			slices.ContainsFunc(elsewhere, func(m string) bool { return strings.HasPrefix(p, m) }) {
			return nil
		}
		return t.add(p, src)
	})
	return t, err
}

func (t *tree) add(p string, src []byte) error {
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, p, src, parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", p, err)
	}
	if ast.IsGenerated(parsed) { // its generator's habits, not ours; what it is made of stands beside it
		return nil
	}
	dir := path.Dir(p)
	if t.rooms[dir] == nil {
		t.rooms[dir] = &room{dir: dir}
	}
	t.rooms[dir].files = append(t.rooms[dir].files, &file{p, strings.HasSuffix(p, "_test.go"), parsed, fset})
	return nil
}

// aside says that a room is for tests only: everything under test/, and rooms that are named *test (attest is a verb).
func aside(dir string) bool {
	return dir == "test" || strings.HasPrefix(dir, "test/") || strings.HasSuffix(dir, "test") && path.Base(dir) != "attest"
}

// column is a room's top-level folder.
func column(dir string) string {
	c, _, _ := strings.Cut(dir, "/")
	return c
}

// within says that dir is one of the places given, or below one. A place that ends in * is a prefix.
func within(dir string, places ...string) bool {
	return slices.ContainsFunc(places, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(dir, prefix)
		}
		return dir == p || strings.HasPrefix(dir, p+"/")
	})
}
