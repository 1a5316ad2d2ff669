package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/identity"
)

// reload brings what is in use in line with what is stored and plugged in, and stores what that changes. A plugged-in CA
// that is refused does not keep changes of the slots from taking effect.
func (s *Shared) reload(ctx context.Context) error {
	for range conflicts {
		err := s.reloadOnce(ctx)
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%w: %d times over", ErrConflict, conflicts)
}

func (s *Shared) reloadOnce(ctx context.Context) error {
	// The slots first: whoever changed them for a newer plugged-in CA had read that before.
	stored, err := s.opts.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("loading root slots: %w", err)
	}
	var have slots
	if stored.Version != "" {
		if have, err = parseSlots(stored.Files[SlotsFile], s.opts.TrustDomain); err != nil {
			return err
		}
	}
	want, operator, refusal := s.decide(ctx, have)
	if want == nil {
		return refusal
	}
	var next *inUse
	if next, err = s.prepare(want, operator); err != nil {
		return err
	}
	if err := s.store(ctx, stored, have, want); err != nil {
		return err
	}
	if len(have) == 0 && s.inUse.Load() != nil {
		s.tell(ctx, true, "CAStateRestored", "the root slots were gone: this replica put back what it has in use")
	}
	s.take(ctx, next)
	return refusal
}

// decide says what the slots shall be, nil for nothing that could sign. A refused CA is an error beside the slots as they
// are, as long as this process has a CA to go on with.
func (s *Shared) decide(ctx context.Context, have slots) (slots, *plugged, error) {
	now, use := s.opts.Now(), s.inUse.Load()
	operator, err := s.operator(ctx, have)
	switch {
	case use != nil && len(have) == 0:
		have = use.slots // somebody deleted them: this process puts them back
	case use != nil:
		have = have.keep(use.slots, now, s.opts.LeafTTL)
	}
	if err == nil && operator != nil {
		var want slots
		if want, err = s.plug(have, operator, now); err == nil {
			if want, _ = want.expire(now); want.current().origin != originPlugged || !sameCerts(want.current().certs, operator.roots) {
				operator = nil // not yet
				if use != nil {
					operator = use.operator
				}
			}
			return want, operator, nil
		}
	}
	if err != nil && use == nil {
		return nil, nil, err
	}
	if bad := (*PluggedError)(nil); err != nil && !errors.As(err, &bad) {
		return nil, nil, err
	}
	if len(have) == 0 {
		made, err := s.makeOwn(now)
		return made, nil, err
	}
	want, _ := have.withoutAnnounced().expire(now) // of what can't be used, or is gone, nothing remains
	if err != nil {
		return want, use.operator, err
	}
	return want, nil, nil
}

// plug says what the slots shall be with a plugged-in CA. One that could not sign is refused before its roots are announced.
func (s *Shared) plug(have slots, operator *plugged, now time.Time) (slots, error) {
	use := s.inUse.Load()
	want, changed, err := have.announce(operator.roots, now, s.opts.Announce, s.opts.LeafTTL)
	if err != nil {
		return nil, err
	}
	current := want.current()
	if sameCerts(current.certs, operator.roots) {
		return want, nil
	}
	if use == nil && current.key == nil { // what signed before is gone: nothing is gained by waiting
		want, _, err = have.adopt(operator.roots, now, s.opts.LeafTTL)
		return want, err
	}
	if !changed {
		return want, nil
	}
	adopted, _, err := have.adopt(operator.roots, now, s.opts.LeafTTL)
	if err != nil {
		return nil, err
	}
	_, err = s.sign(operator.by, adopted, operator, adopted.trusted(now))
	return want, err
}

// operator is the plugged-in CA as it is now, nil where there is none and was none.
func (s *Shared) operator(ctx context.Context, have slots) (*plugged, error) {
	var stored Stored
	if s.opts.Plugged != nil {
		var err error
		if stored, err = s.opts.Plugged.Load(ctx); err != nil {
			return nil, fmt.Errorf("loading plugged-in CA: %w", err)
		}
	}
	if stored.Version == "" {
		if len(have) > 0 && have.current().origin == originPlugged {
			return nil, &PluggedError{ReasonMissing, "it is gone: restore it, or end all replicas and delete the root slots as well to begin with a new root"}
		}
		return nil, nil
	}
	p, err := judgePlugged(stored.Files, s.opts.Now())
	if err != nil {
		return nil, err
	}
	if stored.Files[pluggedCRL] != nil {
		s.opts.Log.Warn("the plugged-in CA's " + pluggedCRL + " has no effect: revocation lists are not honoured")
	}
	return p, nil
}

// makeOwn makes a first root of our own.
func (s *Shared) makeOwn(now time.Time) (slots, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	cert, err := signAuthority(order{
		profile: rootProfile, name: "Signet root CA", trustDomain: s.opts.TrustDomain, key: key, now: now, ttl: s.opts.RootTTL,
	})
	if err != nil {
		return nil, fmt.Errorf("making root certificate: %w", err)
	}
	if err := checkRoot(pair{cert, key}, s.opts.TrustDomain); err != nil {
		return nil, fmt.Errorf("checking new root certificate: %w", err)
	}
	return slots{{word: slotCurrent, origin: originOwn, certs: []*x509.Certificate{cert}, key: key}}, nil
}

// store writes the slots if they are others than what is stored. After an error other than ErrConflict they may be stored:
// the next reload finds them.
func (s *Shared) store(ctx context.Context, stored Stored, have, want slots) error {
	if slices.EqualFunc(have, want, func(a, b root) bool {
		return a.word == b.word && a.origin == b.origin && a.until.Equal(b.until) && sameCerts(a.certs, b.certs)
	}) {
		return nil
	}
	data, err := want.encode(s.opts.TrustDomain)
	if err != nil {
		return err
	}
	if err := s.opts.Store.Swap(ctx, stored.Version, map[string][]byte{SlotsFile: data}); err != nil {
		return fmt.Errorf("storing root slots: %w", err)
	}
	return nil
}

// prepare builds what would be in use: the intermediate at hand under the new roots where its issuer is the same and it is
// not due, else a new one.
func (s *Shared) prepare(want slots, operator *plugged) (*inUse, error) {
	now, old := s.opts.Now(), s.inUse.Load()
	current, roots := want.current(), want.trusted(now)
	by := issuer{key: current.key}
	if current.key != nil {
		by.cert = current.certs[0]
	}
	if operator != nil {
		by = operator.by
	}
	if by.cert == nil && old == nil {
		return nil, &PluggedError{ReasonMissing, "nothing signs for the current root"}
	}
	if by.cert == nil { // another process adopted a CA that can't be read here now
		return old.under(want, roots), nil
	}
	if !by.cert.NotAfter.After(now) && (old == nil || !old.issuer.Equal(by.cert)) {
		return nil, fmt.Errorf("the root ended at %v", by.cert.NotAfter)
	}
	if old != nil && old.issuer.Equal(by.cert) && sameAbove(old.operator, operator) && (old.renew.IsZero() || old.renew.After(now)) {
		return old.under(want, roots), nil
	}
	return s.sign(by, want, operator, roots)
}

// under is the same signing certificate with other roots around it.
func (u *inUse) under(want slots, roots []*x509.Certificate) *inUse {
	out := *u
	out.slots = want
	if !sameCerts(u.slot.roots, roots) {
		slot := *u.slot
		slot.roots = roots
		out.slot = &slot
	}
	return &out
}

func sameAbove(a, b *plugged) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.direct == b.direct && sameCerts(a.above, b.above) && a.end.Equal(b.end)
}

// sign makes what signs leaves, and tries it before anybody depends on it.
func (s *Shared) sign(by issuer, want slots, operator *plugged, roots []*x509.Certificate) (*inUse, error) {
	out := &inUse{slots: want, operator: operator, issuer: by.cert}
	if operator != nil && operator.direct {
		slot, err := newSlot(by, operator.above, roots)
		if err != nil {
			return nil, err
		}
		out.slot = slot
		return out, s.try(out)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	o := order{profile: caProfile, name: "Signet signing CA", trustDomain: s.opts.TrustDomain,
		key: key, now: s.opts.Now(), ttl: s.opts.IntermediateTTL, issuer: &by}
	above := []*x509.Certificate(nil)
	if operator != nil {
		o.until = operator.end
		if len(operator.above) > 0 || !slices.ContainsFunc(operator.roots, by.cert.Equal) {
			above = append([]*x509.Certificate{by.cert}, operator.above...)
		}
	}
	cert, err := signAuthority(o)
	if err != nil {
		return nil, fmt.Errorf("making signing certificate: %w", err)
	}
	if err := checkAuthority(pair{cert, key}, s.opts.TrustDomain); err != nil {
		return nil, fmt.Errorf("checking new signing certificate: %w", err)
	}
	if out.slot, err = newSlot(issuer{cert, key}, above, roots); err != nil {
		return nil, err
	}
	if end := cert.NotAfter; end.Before(by.cert.NotAfter) && (operator == nil || end.Before(operator.end)) {
		out.renew = renewAt(cert)
	}
	return out, s.try(out)
}

// try signs a certificate of the control plane's with everything that one may carry, and verifies it to the current roots
// for both ends of TLS: name constraints and usages of whatever is above are found out here.
func (s *Shared) try(use *inUse) error {
	now := s.opts.Now()
	id, err := identity.ControlPlane(s.opts.TrustDomain)
	if err != nil {
		return err
	}
	csr, err := requestOf(use.slot.by.key)
	if err != nil {
		return err
	}
	der, err := use.slot.SignLeaf(ca.Leaf{ID: id, DNS: s.opts.Names, CSR: csr, Serial: big.NewInt(1),
		NotBefore: now.Add(-time.Second).UTC(), NotAfter: now.Add(time.Minute).UTC()})
	if err != nil {
		return fmt.Errorf("trying the signing certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("trying the signing certificate: %w", err)
	}
	if use.operator != nil && len(leaf.AuthorityKeyId) == 0 {
		return &PluggedError{ReasonConstraints, "the signing certificate " + shown(use.slot.by.cert) + " has no subject key identifier"}
	}
	between, roots := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range use.slot.chain {
		between.AddCert(c)
	}
	for _, c := range use.slots.current().certs {
		roots.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
		switch {
		case err == nil:
		case use.operator != nil:
			return &PluggedError{reasonOf(err), "a certificate for " + id.String() + " under it does not verify: " + err.Error()}
		default:
			return fmt.Errorf("trying the signing certificate: %w", err)
		}
	}
	return nil
}

// take puts it in use, at once, and says so.
func (s *Shared) take(ctx context.Context, next *inUse) {
	old := s.inUse.Load()
	s.mu.Lock()
	s.inUse.Store(next)
	if old != nil && !sameCerts(old.slot.roots, next.slot.roots) {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.mu.Unlock()
	if old == nil || old.slot.by.cert != next.slot.by.cert {
		s.opts.Log.Info("signing certificate in use", "not_after", next.slot.by.cert.NotAfter, "issuer", shown(next.issuer),
			"serial", fmt.Sprintf("%032x", next.slot.by.cert.SerialNumber), "roots", len(next.slot.roots))
	}
	if i := next.slots.announced(); i != nil && (old == nil || old.slots.announced() == nil || !sameCerts(old.slots.announced(), i)) {
		s.tell(ctx, false, "PluggedCAAnnounced", "the root of the plugged-in CA, "+shown(i[0])+", is published; it signs in some seconds")
	}
	if next.operator != nil && (old == nil || old.operator == nil || !old.operator.by.cert.Equal(next.operator.by.cert)) {
		s.tell(ctx, false, "PluggedCAInUse", "the plugged-in CA "+shown(next.operator.by.cert)+" signs from now on")
	}
}
