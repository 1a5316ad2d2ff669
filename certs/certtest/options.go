package certtest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"time"
)

// Option changes a leaf before it is signed.
type Option func(*leaf)

// Valid sets the validity.
func Valid(notBefore, notAfter time.Time) Option {
	return func(l *leaf) { l.tmpl.NotBefore, l.tmpl.NotAfter = notBefore, notAfter }
}

// TTL makes a leaf that is valid from now on.
func TTL(d time.Duration) Option {
	return func(l *leaf) { l.tmpl.NotBefore, l.tmpl.NotAfter = time.Now(), time.Now().Add(d) }
}

// Expired makes a leaf that ended a minute ago.
func Expired() Option { return Valid(time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)) }

// NotYetValid makes a leaf that begins in an hour.
func NotYetValid() Option { return Valid(time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)) }

// AlsoURI adds a further URI SAN.
func AlsoURI(uri string) Option { return func(l *leaf) { l.uris = append(l.uris, uri) } }

// AlsoDNS adds a DNS SAN.
func AlsoDNS(name string) Option { return func(l *leaf) { l.dns = append(l.dns, name) } }

// AsCA marks the leaf as a CA.
func AsCA() Option { return func(l *leaf) { l.tmpl.IsCA = true } }

// KeyUsage sets the key usage; 0 leaves the extension out.
func KeyUsage(u x509.KeyUsage) Option { return func(l *leaf) { l.tmpl.KeyUsage = u } }

// KeyUsageNotCritical writes digitalSignature in an extension that is not critical.
func KeyUsageNotCritical() Option { return func(l *leaf) { l.usageCritical = false } }

// Template changes anything else.
func Template(change func(*x509.Certificate)) Option { return func(l *leaf) { change(l.tmpl) } }

// Extension is one for Template.
func Extension(oid []int, critical bool, value []byte) pkix.Extension {
	return pkix.Extension{Id: oid, Critical: critical, Value: value}
}
