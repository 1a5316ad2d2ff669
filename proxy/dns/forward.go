package dns

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// MaxResolvers is how many resolvers are asked, as in resolv.conf(5).
const MaxResolvers = 3

// maxResolvConf bounds /etc/resolv.conf, in bytes.
const maxResolvConf = 64 << 10

// Resolvers reads the nameservers of a resolv.conf as host:port. Search lists are the clients' business.
func Resolvers(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading resolvers: %w", err)
	}
	if info.Size() > maxResolvConf {
		return nil, fmt.Errorf("reading resolvers: %s has %d bytes, the limit is %d", path, info.Size(), maxResolvConf)
	}
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading resolvers: %w", err)
	}
	var out []string
	for _, s := range c.Servers[:min(len(c.Servers), MaxResolvers)] {
		out = append(out, net.JoinHostPort(s, c.Port))
	}
	return out, nil
}

// forward asks the resolvers in turn, over the transport that was asked over, and gives their answer as it is. One that fails,
// refuses or does not answer in time is passed over if another is left.
func (s *Server) forward(ctx context.Context, q *dns.Msg, overTCP bool) *dns.Msg {
	client := &dns.Client{Net: "udp", Timeout: s.cfg.Timeout}
	if overTCP {
		client.Net = "tcp"
	}
	asked := q.Copy()
	asked.Id = dns.Id() // as hard to guess as the port it leaves from
	last := refuse(q, dns.RcodeServerFailure)
	for _, r := range s.cfg.Resolvers {
		answer, _, err := client.ExchangeContext(ctx, asked, r)
		if ctx.Err() != nil {
			break
		}
		if err != nil || !answers(answer, asked) {
			continue
		}
		last = answer
		if answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
			break
		}
	}
	return last
}

// answers reports whether an answer is one to that question. Names compare without regard to case (RFC 4343).
func answers(a, q *dns.Msg) bool {
	if a == nil || !a.Response || len(a.Question) != 1 {
		return a != nil && a.Response && a.Rcode != dns.RcodeSuccess // an error may leave the question out
	}
	have, want := a.Question[0], q.Question[0]
	return strings.EqualFold(have.Name, want.Name) && have.Qtype == want.Qtype && have.Qclass == want.Qclass
}
