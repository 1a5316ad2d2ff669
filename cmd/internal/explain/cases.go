package explain

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Result is what became of one case.
type Result struct {
	Case Case
	// Failure is why it failed, "" if it passed. Answer is what was decided; nil where the request could not be judged.
	Failure string
	Answer  *Answer
	Elapsed time.Duration
}

// LoadCases reads a directory of objects with its cases, and further files of cases. Files of cases that stand among the
// objects count too, though nothing else that reads the directory takes them.
func LoadCases(dir, trustDomain string, files []string) (*Mesh, []Case, error) {
	among := []string{}
	m, err := load(dir, trustDomain, func(path string, data []byte) bool {
		if !isCases(data) {
			return false
		}
		among = append(among, path)
		return true
	})
	if err != nil {
		return nil, nil, err
	}
	own, err := CaseFiles(dir)
	if err != nil {
		return nil, nil, err
	}
	var cases []Case
	for _, f := range append(append(among, own...), files...) {
		some, err := ReadCases(f)
		if err != nil {
			return nil, nil, err
		}
		if cases = append(cases, some...); len(cases) > MaxCases {
			return nil, nil, fmt.Errorf("%s: there are more than %d cases", f, MaxCases)
		}
	}
	if len(cases) == 0 {
		return nil, nil, fmt.Errorf("%s has no cases: write them in %s/%s/*.yaml, or name a file by --cases", dir, dir, CaseDir)
	}
	return m, cases, nil
}

// RunCases judges each case by the objects alone.
func RunCases(ctx context.Context, m *Mesh, cases []Case) []Result {
	out := make([]Result, 0, len(cases))
	for _, c := range cases {
		start := time.Now()
		r := Result{Case: c}
		a, err := m.judgeCase(ctx, &c)
		if err != nil {
			r.Failure = err.Error()
		} else {
			r.Answer, r.Failure = a, c.Expect.judge(a)
		}
		r.Elapsed = time.Since(start)
		out = append(out, r)
	}
	return out
}

func (m *Mesh) judgeCase(ctx context.Context, c *Case) (*Answer, error) {
	return assemble(ctx, &c.Question, func(ctx context.Context, workload string, q *Question) (Reply, error) {
		a, err := m.At(workload)
		if err != nil {
			return Reply{}, err
		}
		if to, _, _ := strings.Cut(q.To, ":"); c.Claims != nil && to == workload {
			v, err := m.view(workload)
			if err != nil {
				return Reply{}, err
			}
			if a, err = a.withClaims(v, c.Claims); err != nil {
				return Reply{}, err
			}
		}
		return a.Reply(ctx, q), nil
	})
}

// judge says what of an answer is not as expected, "" if all is.
func (e *Expect) judge(a *Answer) string {
	by := ""
	if a.By != nil {
		by = a.By.String()
	}
	var wrong []string
	want := func(what, want, got string) {
		if want != "" && want != got {
			wrong = append(wrong, fmt.Sprintf("%s: want %s, got %s", what, want, cmp.Or(got, "none")))
		}
	}
	want("decision", e.Decision, a.Decision)
	if e.By != "" && e.By != by && (strings.HasSuffix(e.By, "]") || e.By != withoutRule(by)) {
		want("by", e.By, by)
	}
	if e.Status != 0 {
		want("status", fmt.Sprint(e.Status), fmt.Sprint(a.Status))
	}
	want("path", e.Path, a.Server.Path)
	route := ""
	if a.Route != nil {
		route = a.Route.Route
	}
	want("route", e.Route, route)
	if len(wrong) == 0 {
		return ""
	}
	return strings.Join(append(wrong, "it is "+a.verdict()), "; ")
}

func withoutRule(by string) string {
	if i := strings.LastIndexByte(by, '['); i > 0 && strings.HasSuffix(by, "]") {
		return by[:i]
	}
	return by
}

// WriteResults writes a line for each case, and a last one with how many passed.
func WriteResults(w io.Writer, rs []Result) error {
	var b strings.Builder
	failed := 0
	for i := range rs {
		r := &rs[i]
		if r.Failure == "" {
			fmt.Fprintf(&b, "ok    %s\n", Printable(r.Case.Name))
			continue
		}
		failed++
		fmt.Fprintf(&b, "FAIL  %s\n      %s: %s\n", Printable(r.Case.Name), r.Case.Position, Printable(r.Failure))
	}
	fmt.Fprintf(&b, "%d of %d cases passed\n", len(rs)-failed, len(rs))
	_, err := io.WriteString(w, b.String())
	return err
}

// Failed is how many cases failed.
func Failed(rs []Result) (n int) {
	for i := range rs {
		if rs[i].Failure != "" {
			n++
		}
	}
	return n
}

// The elements of a JUnit report.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		ClassName string        `xml:"classname,attr"`
		File      string        `xml:"file,attr"`
		Line      int           `xml:"line,attr"`
		Time      string        `xml:"time,attr"`
		Failure   *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes a report as JUnit's XML, a suite for each file.
func WriteJUnit(w io.Writer, rs []Result) error {
	doc := junitSuites{Tests: len(rs), Failures: Failed(rs)}
	elapsed := time.Duration(0)
	for i := range rs {
		r := &rs[i]
		file := r.Case.Position.File
		if n := len(doc.Suites); n == 0 || doc.Suites[n-1].Name != file {
			doc.Suites = append(doc.Suites, junitSuite{Name: file})
			elapsed = 0
		}
		s := &doc.Suites[len(doc.Suites)-1]
		c := junitCase{Name: Printable(r.Case.Name), ClassName: file, File: file, Line: r.Case.Position.Line, Time: seconds(r.Elapsed)}
		s.Tests++
		elapsed += r.Elapsed
		s.Time = seconds(elapsed)
		if r.Failure != "" {
			s.Failures++
			c.Failure = &junitFailure{Message: Printable(r.Failure), Text: r.explained()}
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	return errors.Join(enc.Encode(doc), enc.Close())
}

// explained is the whole answer of a case that failed.
func (r *Result) explained() string {
	if r.Answer == nil {
		return ""
	}
	var b bytes.Buffer
	_ = r.Answer.WriteText(&b) // to a bytes.Buffer
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }

// WriteJUnitFile writes the report to a file, as a whole or not at all.
func WriteJUnitFile(path string, rs []Result) error {
	var b bytes.Buffer
	if err := WriteJUnit(&b, rs); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
