package caserver

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/signet-mesh/signet/ca"
)

// chains writes certificates in Istio's form: the leaf, each intermediate, and last all roots in one string; each
// certificate ends in a newline, which ztunnel counts on. What follows the leaf is the same until the CA rotates, and is
// kept.
type chains struct{ last atomic.Pointer[tail] }

// tail is what follows a leaf of one issuer. Immutable.
type tail struct {
	intermediates, roots []*x509.Certificate
	text                 []string
}

func (k *chains) strings(c *ca.Certificate) []string {
	t := k.last.Load()
	if t == nil || !slices.Equal(t.intermediates, c.Intermediates) || !slices.Equal(t.roots, c.Roots) {
		t = newTail(c)
		k.last.Store(t)
	}
	return append([]string{pemOf(c.Leaf)}, t.text...)
}

func newTail(c *ca.Certificate) *tail {
	t := &tail{intermediates: slices.Clone(c.Intermediates), roots: slices.Clone(c.Roots)}
	for _, i := range c.Intermediates {
		t.text = append(t.text, pemOf(i))
	}
	t.text = append(t.text, pemOf(c.Roots...))
	return t
}

func pemOf(list ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range list {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}
