package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// SlotsFile is the file of a Store that holds the root slots, as JSON:
//
//	{"format": "signet-ca/1", "trustDomain": TD, "slots": [
//	  {"slot": "current", "origin": "own", "certificate": PEM, "key": PEM},
//	  {"slot": "next", "origin": "plugged-in", "certificate": PEM, "until": RFC 3339},
//	  {"slot": "retiring", "origin": "plugged-in", "certificate": PEM, "until": RFC 3339}]}
//
// There is one slot current, at most one next, and any number of retiring. Relying parties trust the roots of all. Only a
// root of our own that signs has its key there. A plugged-in root is next, until it has been published for Announce.
const SlotsFile = "slots.json"

// slotsFormat is the version of the format. Another one is refused: an older release must not write over a newer one's.
const slotsFormat = "signet-ca/1"

// The words of slots.
const (
	slotNext     = "next"
	slotCurrent  = "current"
	slotRetiring = "retiring"
)

// Where a root comes from.
const (
	originOwn     = "own"
	originPlugged = "plugged-in"
)

// Limits of the slots.
const (
	// maxSlotsBytes is below the 1 MiB of a Secret.
	maxSlotsBytes = 512 << 10
	// maxSharedRoots is what clients take of one answer (ca/caclient).
	maxSharedRoots = 16
)

// root is one slot. Immutable.
type root struct {
	word, origin string
	certs        []*x509.Certificate
	key          *ecdsa.PrivateKey // of an own root that signs, or will
	until        time.Time         // of a retiring one, and of a next one that is plugged in
}

// slots are all of them. Immutable.
type slots []root

type slotsDocument struct {
	Format      string         `json:"format"`
	TrustDomain string         `json:"trustDomain"`
	Slots       []slotDocument `json:"slots"`
}

type slotDocument struct {
	Slot        string    `json:"slot"`
	Origin      string    `json:"origin"`
	Certificate string    `json:"certificate"`
	Key         string    `json:"key,omitempty"`
	Until       time.Time `json:"until,omitzero"`
}

// parseSlots reads what is stored, strictly. Errors quote no key.
func parseSlots(data []byte, td string) (slots, error) {
	if len(data) > maxSlotsBytes {
		return nil, fmt.Errorf("reading root slots: %d bytes, at most %d are read", len(data), maxSlotsBytes)
	}
	var doc slotsDocument
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, errors.New("reading root slots: it is not JSON") // the cause may quote the key
	}
	if head.Format != slotsFormat {
		return nil, fmt.Errorf("reading root slots: format %q is not known here, %q is", head.Format, slotsFormat)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, errors.New("reading root slots: a field is not known here, or has another type")
	}
	if doc.TrustDomain != td {
		return nil, fmt.Errorf("reading root slots: they belong to trust domain %q, not %q", doc.TrustDomain, td)
	}
	var out slots
	for i, s := range doc.Slots {
		r, err := parseSlot(s, td)
		if err != nil {
			return nil, fmt.Errorf("reading root slot %d (%.20q): %w", i, s.Slot, err)
		}
		out = append(out, r)
	}
	if n := out.count(slotCurrent); n != 1 {
		return nil, fmt.Errorf("reading root slots: %d are %q, not one", n, slotCurrent)
	}
	if n := out.count(slotNext); n > 1 {
		return nil, fmt.Errorf("reading root slots: %d are %q, at most one may be", n, slotNext)
	}
	return out, nil
}

func parseSlot(s slotDocument, td string) (root, error) {
	r := root{word: s.Slot, origin: s.Origin, until: s.Until}
	if s.Slot != slotNext && s.Slot != slotCurrent && s.Slot != slotRetiring {
		return root{}, errors.New("the word is none of next, current, retiring")
	}
	if s.Origin != originOwn && s.Origin != originPlugged {
		return root{}, fmt.Errorf("origin %.20q is neither %q nor %q", s.Origin, originOwn, originPlugged)
	}
	if ends := s.Slot == slotRetiring || s.Slot == slotNext && s.Origin == originPlugged; ends == s.Until.IsZero() {
		return root{}, errors.New("a retiring slot and a plugged-in next one, and no other, say until when")
	}
	var err error
	if r.certs, err = certs.ParseChainPEM([]byte(s.Certificate)); err != nil {
		return root{}, err
	}
	if s.Slot == slotRetiring || s.Origin == originPlugged {
		if s.Key != "" {
			return root{}, errors.New("it has a key but does not sign")
		}
		return r, nil
	}
	key, err := certs.ParseKeyPEM([]byte(s.Key))
	if err != nil {
		return root{}, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || len(r.certs) != 1 {
		return root{}, errors.New("a root of our own is one certificate with an ECDSA key")
	}
	r.key = ec
	return r, checkRoot(pair{cert: r.certs[0], key: ec}, td)
}

// encode is what parseSlots reads. The result is secret.
func (s slots) encode(td string) ([]byte, error) {
	doc := slotsDocument{Format: slotsFormat, TrustDomain: td}
	for _, r := range s {
		d := slotDocument{Slot: r.word, Origin: r.origin, Certificate: string(certs.ChainPEM(r.certs)), Until: r.until}
		if r.key != nil {
			key, err := certs.KeyPEM(r.key)
			if err != nil {
				return nil, fmt.Errorf("writing root slots: %w", err)
			}
			d.Key = string(key)
		}
		doc.Slots = append(doc.Slots, d)
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing root slots: %w", err)
	}
	if len(out) > maxSlotsBytes {
		return nil, fmt.Errorf("writing root slots: %d bytes, at most %d are kept", len(out), maxSlotsBytes)
	}
	return out, nil
}

func (s slots) count(word string) int {
	n := 0
	for _, r := range s {
		if r.word == word {
			n++
		}
	}
	return n
}

// current is the slot that signs.
func (s slots) current() root {
	return s[slices.IndexFunc(s, func(r root) bool { return r.word == slotCurrent })]
}

// announced are the roots of a plugged-in CA that will sign, nil if there is none.
func (s slots) announced() []*x509.Certificate {
	for _, r := range s {
		if r.word == slotNext && r.origin == originPlugged {
			return r.certs
		}
	}
	return nil
}

// withoutAnnounced leaves those out.
func (s slots) withoutAnnounced() slots {
	return slices.DeleteFunc(slices.Clone(s), func(r root) bool { return r.word == slotNext && r.origin == originPlugged })
}

// trusted are the roots of all slots, each once, without those that have retired by now.
func (s slots) trusted(now time.Time) []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range s {
		if r.word == slotRetiring && !r.until.After(now) {
			continue
		}
		for _, c := range r.certs {
			if !slices.ContainsFunc(out, c.Equal) {
				out = append(out, c)
			}
		}
	}
	return out
}

// nextEnd is when the next slot that ends does, zero if there is none.
func (s slots) nextEnd() time.Time {
	var end time.Time
	for _, r := range s {
		if !r.until.IsZero() && (end.IsZero() || r.until.Before(end)) {
			end = r.until
		}
	}
	return end
}

// expire drops what has retired by now. It reports whether there was any.
func (s slots) expire(now time.Time) (slots, bool) {
	out := slices.DeleteFunc(slices.Clone(s), func(r root) bool { return r.word == slotRetiring && !r.until.After(now) })
	return out, len(out) != len(s)
}

// announce makes an operator's roots the next ones where somebody may not trust them yet, for as long as it takes to tell
// everybody, and the current ones after that, or at once where they are trusted, or nothing else signs. It reports whether that
// changes anything.
func (s slots) announce(roots []*x509.Certificate, now time.Time, wait, leafTTL time.Duration) (slots, bool, error) {
	rest := slices.DeleteFunc(slices.Clone(s), func(r root) bool { return r.word == slotNext })
	known := rest.trusted(now)
	if len(rest) == 0 || !slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return !slices.ContainsFunc(known, c.Equal) }) {
		return s.adopt(roots, now, leafTTL)
	}
	at := slices.IndexFunc(s, func(r root) bool { return r.word == slotNext && r.origin == originPlugged && sameCerts(r.certs, roots) })
	switch {
	case at >= 0 && !s[at].until.After(now):
		return s.adopt(roots, now, leafTTL)
	case at >= 0:
		return s, false, nil
	}
	out := append(rest, root{word: slotNext, origin: originPlugged, certs: roots, until: now.Add(wait).UTC().Round(0)})
	return out, true, tooMany(out, now)
}

func tooMany(s slots, now time.Time) error {
	if n := len(s.trusted(now)); n > maxSharedRoots {
		return &PluggedError{ReasonTooMany, fmt.Sprintf("with those that are retiring there would be %d roots, at most %d are published", n, maxSharedRoots)}
	}
	return nil
}

// adopt makes an operator's roots the current ones. Those that were current before, and are not among them, retire: no
// leaf under them lives longer than leafTTL from now. It reports whether that changes anything.
func (s slots) adopt(roots []*x509.Certificate, now time.Time, leafTTL time.Duration) (slots, bool, error) {
	out := slots{{word: slotCurrent, origin: originPlugged, certs: roots}}
	if i := slices.IndexFunc(s, func(r root) bool { return r.word == slotCurrent }); i >= 0 && s[i].origin == originPlugged && sameCerts(s[i].certs, roots) {
		out = slices.DeleteFunc(slices.Clone(s), func(r root) bool { return r.word == slotNext })
		return out, len(out) != len(s), nil
	}
	for _, r := range s {
		left := slices.DeleteFunc(slices.Clone(r.certs), func(c *x509.Certificate) bool { return slices.ContainsFunc(roots, c.Equal) })
		switch {
		case len(left) == 0 || r.word == slotNext:
			continue
		case r.word == slotRetiring:
			out = append(out, root{word: slotRetiring, origin: r.origin, certs: left, until: r.until})
			continue
		}
		until := now.Add(leafTTL).UTC().Truncate(time.Second)
		out = append(out, root{word: slotRetiring, origin: r.origin, certs: left, until: until})
	}
	out, _ = out.expire(now)
	if err := tooMany(out, now); err != nil {
		return s, false, err
	}
	return out, true, nil
}

// keep retires the roots that this process has certificates under and that the slots know nothing of: somebody began with others.
func (s slots) keep(used slots, now time.Time, leafTTL time.Duration) slots {
	known := s.trusted(now)
	for _, r := range used {
		left := slices.DeleteFunc(slices.Clone(r.certs), func(c *x509.Certificate) bool { return slices.ContainsFunc(known, c.Equal) })
		if r.word == slotCurrent && len(left) > 0 {
			return append(slices.Clone(s), root{word: slotRetiring, origin: r.origin, certs: left, until: now.Add(leafTTL).UTC().Truncate(time.Second)})
		}
	}
	return s
}

func sameCerts(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, (*x509.Certificate).Equal)
}
