package tokens

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
)

// TestKeySet walks through fetches: "FETCH ISSUER KEYS" or "" for none, and what is believed then.
func TestKeySet(t *testing.T) {
	key := func(id string) jwt.Key {
		seed := strings.Repeat(strings.ToLower(id[:1]), ed25519.SeedSize) // B and b have one key
		return jwt.Key{ID: id, Public: ed25519.NewKeyFromSeed([]byte(seed)).Public()}
	}
	began := time.Unix(1_000_000, 0)
	var s *keySet
	if s.at(began) != nil {
		t.Error("something is believed before the first fetch")
	}
	for _, step := range []struct {
		minute        int
		issuer, keys  string // "" where nothing is fetched
		issuers, want string
	}{
		{0, "one", "a", "one", "a"},
		{10, "one", "b", "one", "b a"},
		{20, "one", "a", "one", "a b"},            // the other server answers
		{30, "two", "a c", "two one", "a c b"},    // b is gone since 20
		{79, "", "", "two one", "a c b"},          //
		{80, "", "", "two one", "a c"},            // also when nothing is fetched
		{89, "", "", "two one", "a c"},            //
		{90, "", "", "two", "a c"},                //
		{91, "two", "B c", "two", "B c a"},        //
		{92, "two", "b c", "two", "b c B a"},      // another name is another key
		{200, "two", "b c", "two", "b c"},         //
		{201, "one", "d", "one two", "d b c"},     //
		{300, "three", "d", "three one", "d"},     // two is gone since 201
		{301, "three", "d e", "three one", "d e"}, //
		{400, "", "", "three", "d e"},             // what is published stays, however long ago
	} {
		now := began.Add(time.Duration(step.minute) * time.Minute)
		if step.issuer != "" {
			var keys []jwt.Key
			for _, id := range strings.Fields(step.keys) {
				keys = append(keys, key(id))
			}
			s = s.next(step.issuer, nil, keys, now)
		}
		if s = s.at(now); s.at(now) != s {
			t.Errorf("minute %d: another set although nothing changed", step.minute)
		}
		var got []string
		for _, k := range s.keys {
			got = append(got, k.ID)
		}
		if issuers, keys := strings.Join(s.issuers, " "), strings.Join(got, " "); issuers != step.issuers || keys != step.want {
			t.Errorf("minute %d: issuers %q, keys %q; want %q, %q", step.minute, issuers, keys, step.issuers, step.want)
		}
	}
}
