package dir_test

import (
	"strings"
	"testing"
)

const rate = "apiVersion: policy.signet.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: NAME}\nspec: {SCOPE: {rules: [{limit: {requests: 5, unit: Second}}]}}\n"

// One tenant's new mistake is closed, and does not close another's object, whose last good version goes on.
func TestOneMistakeClosesOne(t *testing.T) {
	scope := func(name, scope string) string { return strings.ReplaceAll(named(rate, name), "SCOPE", scope) }
	l := newLab(t, map[string]string{"old.yaml": scope("old", "local")})
	l.start("")
	l.write("old.yaml", scope("old", "global")) // there is no store: refused by Build
	l.write("new.yaml", scope("new", "global"))
	l.soon("(new) old")
	l.stays("(new) old")
}
