package adsserver

import (
	"strconv"

	"github.com/signet-mesh/signet/mesh/adswire"
)

// push is the state of what one proxy was sent, and the order in which it gets what it lacks. It does no I/O.
type push struct {
	subscribed map[string]bool
	// holds is what the proxy has acknowledged, or said that it holds when it subscribed.
	holds adswire.Versions
	// acked is the generation that the proxy runs on, as far as is known.
	acked string

	// target is the generation being pushed; steps are the responses of it that were not sent yet, in order.
	target string
	steps  []adswire.Step
	// unanswered has the one response of each type that waits for an answer.
	unanswered map[string]sent
	nonce      uint64

	// refused are fingerprints of what the proxy refused since it last acknowledged a generation: not sent again.
	refused map[string]bool
	// failed: something of the target was refused, so that its marker can't but be refused too.
	failed bool
}

// maxRefused bounds refused; beyond it everything is forgotten, and may be sent once more.
const maxRefused = 1024

type sent struct {
	nonce string
	step  adswire.Step
}

func newPush() push {
	return push{
		subscribed: map[string]bool{},
		holds:      adswire.Versions{},
		unanswered: map[string]sent{},
		refused:    map[string]bool{},
	}
}

// subscribe notes that the proxy wants a type, and what it holds of it.
func (p *push) subscribe(typ string, versions map[string]string) {
	p.subscribed[typ] = true
	p.holds[typ] = map[string]string{}
	for name, v := range versions {
		p.holds[typ][name] = v
	}
}

// idle reports whether a generation may begin: the proxy has subscribed to the marker, which it does last, and everything
// that was sent was answered.
func (p *push) idle() bool {
	return p.subscribed[adswire.GenerationType] && len(p.steps) == 0 && len(p.unanswered) == 0
}

// begin makes the set the target. held is true if it would repeat something that the proxy refused: then nothing is sent.
func (p *push) begin(set *adswire.Set, m adswire.Marker) (held bool, err error) {
	p.target, p.steps, p.failed = m.Generation(), nil, false
	steps, err := adswire.Steps(p.holds, set, m)
	if err != nil {
		return false, err
	}
	if len(steps) == 0 {
		p.acked = p.target
		clear(p.refused)
		return false, nil
	}
	for _, s := range steps {
		if p.refused[s.Fingerprint()] {
			return true, nil
		}
	}
	for _, s := range steps {
		// What was not subscribed to is not sent; the marker names it, so that the proxy refuses to run without it.
		if p.subscribed[s.Type] {
			p.steps = append(p.steps, s)
		}
	}
	return false, nil
}

// next is the response to send now. There is none while the type of the next step has an unanswered one.
func (p *push) next() (adswire.Step, string, bool) {
	if len(p.steps) == 0 {
		return adswire.Step{}, "", false
	}
	s := p.steps[0]
	if _, waits := p.unanswered[s.Type]; waits {
		return adswire.Step{}, "", false
	}
	p.steps = p.steps[1:]
	p.nonce++
	nonce := strconv.FormatUint(p.nonce, 10)
	p.unanswered[s.Type] = sent{nonce, s}
	return s, nonce, true
}

// ack notes an acknowledgement; false if it answers nothing.
func (p *push) ack(typ, nonce string) bool {
	u, ok := p.unanswered[typ]
	if !ok || u.nonce != nonce {
		return false
	}
	delete(p.unanswered, typ)
	p.holds.Record(u.step)
	if typ == adswire.GenerationType {
		p.acked = u.step.Changed[0].Version
		clear(p.refused)
	}
	return true
}

// nack notes a refusal. What was not sent yet of the generation is dropped. It reports whether this is news: an answer to
// something that was asked, and not the consequence of an earlier refusal in the same generation.
func (p *push) nack(typ, nonce string) bool {
	u, ok := p.unanswered[typ]
	if !ok || u.nonce != nonce {
		return false
	}
	delete(p.unanswered, typ)
	if len(p.refused) >= maxRefused {
		clear(p.refused)
	}
	p.refused[u.step.Fingerprint()] = true
	p.steps = nil
	news := !p.failed || typ != adswire.GenerationType
	p.failed = true
	return news
}
