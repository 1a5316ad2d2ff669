package mesh

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// fetched judges the URL of something that is fetched or reported to; nil if it was refused.
func (j *judge) fetched(field, s string) *url.URL {
	if s == "" || len(s) > maxURLBytes {
		j.refuse(field, "must have 1 to %d bytes", maxURLBytes)
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		j.refuse(field, "is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		j.refuse(field, "want an http or https URL, found scheme %q", clip(u.Scheme))
	case u.User != nil:
		j.refuse(field, "must not hold a user or a password")
	case u.Hostname() == "" || u.Opaque != "":
		j.refuse(field, "%q names no host", clip(s))
	case u.Fragment != "":
		j.refuse(field, "%q must not have a fragment", clip(s))
	default:
		return u
	}
	return nil
}

// plaintext reports whether what comes from there may be replaced on the way: http, and not from this host.
func plaintext(u *url.URL) bool {
	if u == nil || u.Scheme != "http" || u.Hostname() == "localhost" {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err != nil || !a.IsLoopback()
}

// service judges a URL that paths are added to.
func (j *judge) service(field, s string) *url.URL {
	u := j.fetched(field, s)
	if u != nil && (u.RawQuery != "" || u.ForceQuery) {
		j.refuse(field, "%q must not have a query", clip(s))
		return nil
	}
	return u
}

// certificates judges PEM certificates; none is the system's.
func (j *judge) certificates(field, text string) {
	if text == "" {
		return
	}
	if len(text) > MaxPEMBytes {
		j.refuse(field, "has %d bytes, more than %d", len(text), MaxPEMBytes)
		return
	}
	n := 0
	for rest := []byte(text); ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			j.refuse(field, "holds a %q, want certificates only", clip(block.Type))
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			j.refuse(field, "certificate %d can't be read: %v", n+1, err)
			return
		}
	}
	if n == 0 {
		j.refuse(field, "holds no PEM certificate")
	}
}

// between refuses a duration that is set and outside its bounds, both included.
func (j *judge) between(field string, d *durationpb.Duration, least, most time.Duration) {
	if d == nil {
		return
	}
	if v := d.AsDuration(); d.CheckValid() != nil || v < least || v > most {
		j.refuse(field, "want %s to %s, found %s", least, most, v)
	}
}

// delays judges a pair of delays, of which both are set or none.
func (j *judge) delays(prefix string, least, most *durationpb.Duration) {
	j.between(prefix+"minDelay", least, minRegoDelay, maxRegoDelay)
	j.between(prefix+"maxDelay", most, minRegoDelay, maxRegoDelay)
	if (least == nil) != (most == nil) {
		j.refuse(prefix+"minDelay", "and maxDelay are set both or not at all")
	} else if least.AsDuration() > most.AsDuration() {
		j.refuse(prefix+"minDelay", "%s is more than maxDelay, %s", least.AsDuration(), most.AsDuration())
	}
}

// word refuses a text that is empty, too long, or holds a control character.
func (j *judge) word(field, v string, most int) bool {
	if v == "" || len(v) > most {
		j.refuse(field, "must have 1 to %d bytes", most)
		return false
	}
	n := len(j.problems)
	j.headerValue(field, v, true)
	return len(j.problems) == n
}

// atMost refuses a list that is too long.
func (j *judge) atMost(field string, n, most int) bool {
	if n > most {
		j.refuse(field, "has %d entries, more than %d", n, most)
	}
	return n <= most
}
