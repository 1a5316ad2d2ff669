package route

import (
	"math/rand/v2"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

func mustRegex(t testing.TB, expr string) Text {
	t.Helper()
	x, err := Regex(expr)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestCondition(t *testing.T) {
	type cond = Condition
	for _, c := range []struct {
		name string
		cond Condition
		head proxy.Head
		want bool
	}{
		{"nothing asked", cond{}, proxy.Head{}, true},
		{"exact path", cond{URI: Exact("/a")}, proxy.Head{Path: "/a", Query: "?x"}, true},
		{"exact path, longer", cond{URI: Exact("/a")}, proxy.Head{Path: "/a/"}, false},
		{"prefix ignores segments", cond{URI: Prefix("/foo")}, proxy.Head{Path: "/foobar"}, true},
		{"prefix, case", cond{URI: Prefix("/foo")}, proxy.Head{Path: "/Foo"}, false},
		{"prefix, case ignored", cond{URI: Prefix("/foo"), IgnoreURICase: true}, proxy.Head{Path: "/FOO/x"}, true},
		{"exact, case ignored", cond{URI: Exact("/foo"), IgnoreURICase: true}, proxy.Head{Path: "/FOO"}, true},
		{"exact, case ignored, longer", cond{URI: Exact("/foo"), IgnoreURICase: true}, proxy.Head{Path: "/FOO/"}, false},
		{"case ignored is ASCII only", cond{URI: Exact("/k"), IgnoreURICase: true}, proxy.Head{Path: "/\u212a"}, false},
		{"regex keeps its case", cond{URI: mustRegex(t, "/foo"), IgnoreURICase: true}, proxy.Head{Path: "/FOO"}, false},
		{"regex is full", cond{URI: mustRegex(t, "/v[0-9]")}, proxy.Head{Path: "/v1/x"}, false},
		{"regex is full at its start", cond{URI: mustRegex(t, "v1")}, proxy.Head{Path: "/v1"}, false},
		{"regex alternatives are full", cond{URI: mustRegex(t, "/a|/b")}, proxy.Head{Path: "/bc"}, false},
		{"regex longest", cond{URI: mustRegex(t, "/a|/ab")}, proxy.Head{Path: "/ab"}, true},
		{"method", cond{Method: Exact("GET")}, proxy.Head{Method: "POST"}, false},
		{"authority", cond{Authority: Prefix("web.")}, proxy.Head{Authority: "web.shop:80"}, true},
		{"scheme defaults to http", cond{Scheme: Exact("http")}, proxy.Head{}, true},
		{"scheme", cond{Scheme: Exact("http")}, proxy.Head{Scheme: "https"}, false},
		{"header", cond{Headers: []Named{{"a", Exact("1")}}}, head("a", "1"), true},
		{"header, other value", cond{Headers: []Named{{"a", Exact("1")}}}, head("a", "2"), false},
		{"header, absent", cond{Headers: []Named{{"a", Prefix("")}}}, head("b", "2"), false},
		{"header, present", cond{Headers: []Named{{"a", Present()}}}, head("a", ""), true},
		{"header, absent for presence", cond{Headers: []Named{{"a", Present()}}}, head("b", ""), false},
		{"headers are all wanted", cond{Headers: []Named{{"a", Present()}, {"b", Present()}}}, head("a", "1"), false},
		{"repeated header is joined", cond{Headers: []Named{{"a", Exact("1,2")}}}, head("a", "1", "a", "2"), true},
		{"repeated header: one value is not it", cond{Headers: []Named{{"a", Exact("1")}}}, head("a", "1", "a", "2"), false},
		{"repeated header: other is not it", cond{Headers: []Named{{"a", Exact("2")}}}, head("a", "1", "a", "2"), false},
		{"repeated header, prefix within the first", cond{Headers: []Named{{"a", Prefix("ab")}}}, head("a", "abc", "a", "2"), true},
		{"repeated header, prefix across", cond{Headers: []Named{{"a", Prefix("1,2")}}}, head("a", "1", "a", "23"), true},
		{"repeated header, prefix across, wrong", cond{Headers: []Named{{"a", Prefix("1,3")}}}, head("a", "1", "a", "23"), false},
		{"repeated header, prefix to the comma", cond{Headers: []Named{{"a", Prefix("1,")}}}, head("a", "1", "a", "2"), true},
		{"repeated header, regex", cond{Headers: []Named{{"a", mustRegex(t, "1,2,3")}}}, head("a", "1", "b", "", "a", "2", "a", "3"), true},
		{"host as header", cond{Headers: []Named{{"host", Exact("x")}}}, proxy.Head{Authority: "x"}, true},
		{"upgrade as header", cond{Headers: []Named{{"upgrade", Exact("websocket")}}}, proxy.Head{Upgrade: "websocket"}, true},
		{"content-length as header", cond{Headers: []Named{{"content-length", Exact("5")}}}, proxy.Head{Body: proxy.BodyLength, Length: 5}, true},
		{"no content-length", cond{Headers: []Named{{"content-length", Present()}}}, proxy.Head{}, false},
		{"without header, absent", cond{WithoutHeaders: []Named{{"a", Exact("1")}}}, head("b", "1"), true},
		{"without header, other value", cond{WithoutHeaders: []Named{{"a", Exact("1")}}}, head("a", "2"), true},
		{"without header, there", cond{WithoutHeaders: []Named{{"a", Exact("1")}}}, head("a", "1"), false},
		{"without header, any value", cond{WithoutHeaders: []Named{{"a", Present()}}}, head("a", "2"), false},
		{"query", cond{QueryParams: []Named{{"k", Exact("v")}}}, proxy.Head{Query: "?a=b&k=v"}, true},
		{"query, first value counts", cond{QueryParams: []Named{{"k", Exact("v")}}}, proxy.Head{Query: "?k=w&k=v"}, false},
		{"query, presence without value", cond{QueryParams: []Named{{"k", Present()}}}, proxy.Head{Query: "?k"}, true},
		{"query, empty value", cond{QueryParams: []Named{{"k", Exact("")}}}, proxy.Head{Query: "?k&x=1"}, true},
		{"query, part of a name", cond{QueryParams: []Named{{"k", Present()}}}, proxy.Head{Query: "?kk=1&xk=2"}, false},
		{"query, regex", cond{QueryParams: []Named{{"k", mustRegex(t, `\d+$`)}}}, proxy.Head{Query: "?k=a123"}, false},
		{"query, none", cond{QueryParams: []Named{{"k", Present()}}}, proxy.Head{}, false},
	} {
		if got := c.cond.Matches(&c.head); got != c.want {
			t.Errorf("%s: matches = %v, want %v", c.name, got, c.want)
		}
	}
}

func head(fields ...string) (h proxy.Head) {
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

func TestFirstMatchWins(t *testing.T) {
	v := &VirtualHost{HTTP: true, Routes: []*Route{
		{Name: "one", Condition: Condition{URI: Prefix("/a/b")}}, {Name: "two", Condition: Condition{URI: Prefix("/a")}},
		{Name: "three", Condition: Condition{URI: Prefix("/a/c")}}}}
	for path, want := range map[string]string{"/a/b/c": "one", "/a/c": "two", "/x": ""} {
		got := ""
		if r := v.Match(&Request{Head: &proxy.Head{Path: path}}); r != nil {
			got = r.Name
		}
		if got != want {
			t.Errorf("%s took route %q, want %q", path, got, want)
		}
	}
	v.HTTP = false
	if v.Match(&Request{Head: &proxy.Head{Path: "/a"}}) != nil {
		t.Error("a TCP port matched an HTTP request")
	}
}

func TestRegexRefuses(t *testing.T) {
	for _, expr := range []string{"(", "a)(b", `(?=x)`, string(make([]byte, MaxPatternBytes+1))} {
		if _, err := Regex(expr); err == nil {
			t.Errorf("Regex(%.20q) did not refuse", expr)
		}
	}
}

func TestCheckMatchName(t *testing.T) {
	for _, bad := range []string{"", "connection", "transfer-encoding", "uri", "X-Upper", "a b", ":path"} {
		if CheckMatchName(bad) == nil {
			t.Errorf("header %q was taken", bad)
		}
	}
	for _, good := range []string{"x-user", ":authority", "host", "upgrade"} {
		if err := CheckMatchName(good); err != nil {
			t.Error(err)
		}
	}
}

func TestWeights(t *testing.T) {
	const n = 5000
	r := &Route{Destinations: []Weighted{{Cluster: "v1", Weight: 90}, {Cluster: "v2", Weight: 10}, {Cluster: "never"}}}
	random := rand.New(rand.NewPCG(1, 2))
	count := map[string]int{}
	for range n {
		count[r.Pick(random.Uint64()).Cluster]++
	}
	if share := float64(count["v1"]) / n; share < 0.88 || share > 0.92 || count["never"] != 0 || count["v1"]+count["v2"] != n {
		t.Errorf("90/10 came to %v", count)
	}
	if w := (&Route{Destinations: []Weighted{{Cluster: "only"}}}).Pick(7); w == nil || w.Cluster != "only" {
		t.Error("a single destination without a weight was not taken")
	}
	if PickWeighted(nil, 1) != nil || PickWeighted([]Weighted{{}, {}}, 1) != nil {
		t.Error("something was picked from nothing")
	}
}
