package house_test

import (
	"os"
	"strings"
	"testing"
)

// rule is one law of the house; its reason is told with every failure.
type rule struct {
	name  string
	why   string
	judge func(*tree) []string
}

var rules = []rule{
	{"plan", "a room is in the plan once", func(*tree) []string { return judgePlan(floors) }},
	{"floors", floorsWhy, func(t *tree) []string { return judgeFloors(t, floors) }},
	{"fences", "some imports belong to some rooms", judgeFences},
	{"keys", keysWhy, judgeKeys},
	{"comments", "who opens a room wants to know what it is for before reading its furniture", judgeComments},
	{"length", "a function that fits a screen can be checked by eye; the few exceptions stay few", judgeLength},
	{"init", "what runs before main runs in no stated order, can't fail and can't be tested", judgeInit},
	{"names", "a name that fits everything attracts everything; name the trade noun", judgeNames},
	{"skips", "a test that may not run proves nothing: make its needs part of test/setup.sh", judgeSkips},
	{"replace", "replace works only in the main module: `go install` of ours would build something else", judgeReplace},
	{"leftovers", "what is missing belongs in the tracker and the limits in docs/, where they are found", func(t *tree) []string { return judgeWords(t, leftovers) }},
	{"corridors", "the numbers in the code and in docs/architecture.md are the same, or neither helps", judgeCorridors},
}

func TestHouse(t *testing.T) {
	tree, err := read(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.rooms) < 20 {
		t.Fatalf("found %d packages only: the tree was not read", len(tree.rooms))
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			if found := r.judge(tree); len(found) > 0 {
				t.Errorf("%s\n  why: %s", strings.Join(found, "\n"), r.why)
			}
		})
	}
	long, all := longFunctions(tree)
	t.Logf("%d packages, %d functions, %d of them over %d lines\n%s", len(tree.rooms), all, len(long), longLines, strings.Join(long, "\n"))
}
