package lease

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/mesh/policy"
)

func TestErrorsAreRedacted(t *testing.T) {
	l, err := New(Config{Store: &policy.RateLimitStore{Url: "redis://a", Password: "hunter22"}, ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	l.failed(errors.New("NOAUTH hunter22 " + strings.Repeat("é", maxError)))
	if s := l.Status(); strings.Contains(s.Error, "hunter22") || len(s.Error) > maxError || s.State != "away" || !strings.HasSuffix(s.Error, "é") {
		t.Errorf("%+v", s)
	}
	l.recovered()
	if s := l.Status(); s.Error != "" || s.State != "up" {
		t.Errorf("%+v", s)
	}
}
