package compile

import (
	"errors"
	"fmt"
	"time"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/proxy/upstream"
)

// trafficPolicy is the part of a TrafficPolicy that is honoured.
type trafficPolicy struct {
	balancer *networking.LoadBalancerSettings
	pool     *networking.ConnectionPoolSettings
	tls      *networking.ClientTLSSettings
}

// override is p with what t sets; settings of the port replace all of it, as Istio has it (they inherit nothing).
func (p trafficPolicy) override(t *networking.TrafficPolicy, port uint32) trafficPolicy {
	if t == nil {
		return p
	}
	for _, l := range t.PortLevelSettings {
		if l.GetPort().GetNumber() == port {
			return trafficPolicy{l.LoadBalancer, l.ConnectionPool, l.Tls}
		}
	}
	if t.LoadBalancer != nil {
		p.balancer = t.LoadBalancer
	}
	if t.ConnectionPool != nil {
		p.pool = t.ConnectionPool
	}
	if t.Tls != nil {
		p.tls = t.Tls
	}
	return p
}

func (p trafficPolicy) balance() (upstream.Policy, error) {
	if p.balancer == nil {
		return upstream.LeastRequest, nil
	}
	if p.balancer.GetConsistentHash() != nil {
		return 0, below("loadBalancer.consistentHash", errors.New("is not supported"))
	}
	switch s := p.balancer.GetSimple(); s {
	case networking.LoadBalancerSettings_UNSPECIFIED, networking.LoadBalancerSettings_LEAST_REQUEST:
		return upstream.LeastRequest, nil
	// LEAST_CONN is the old name of LEAST_REQUEST, which people still have.
	case networking.LoadBalancerSettings_LEAST_CONN:
		return upstream.LeastRequest, nil
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		return upstream.RoundRobin, nil
	case networking.LoadBalancerSettings_RANDOM:
		return upstream.Random, nil
	default:
		return 0, below("loadBalancer.simple", fmt.Errorf("%s is not supported", s))
	}
}

func (c *compiler) connectTimeout(p trafficPolicy) time.Duration {
	if d := p.pool.GetTcp().GetConnectTimeout(); d != nil && d.AsDuration() > 0 {
		return d.AsDuration()
	}
	return c.view.Mesh.ConnectTimeout
}
