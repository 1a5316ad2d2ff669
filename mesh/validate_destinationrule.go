package mesh

import (
	"fmt"

	networking "istio.io/api/networking/v1"
)

func (j *judge) destinationRule(d *networking.DestinationRule) {
	if err := checkHost(d.GetHost(), true); err != nil {
		j.refuse("host", "%v", err)
	}
	j.exportTo(d.GetExportTo())
	j.trafficPolicy("trafficPolicy.", d.GetTrafficPolicy())
	seen := make(map[string]bool)
	for i, s := range d.GetSubsets() {
		f := fmt.Sprintf("subsets[%d].", i)
		if err := checkLabel(s.GetName()); err != nil {
			j.refuse(f+"name", "%v", err)
		} else if seen[s.GetName()] {
			j.refuse(f+"name", "%q is given twice", s.GetName())
		}
		seen[s.GetName()] = true
		j.selectorLabels(f+"labels", s.GetLabels())
		j.trafficPolicy(f+"trafficPolicy.", s.GetTrafficPolicy())
	}
}

func (j *judge) trafficPolicy(f string, p *networking.TrafficPolicy) {
	if p == nil {
		return
	}
	j.balancer(f+"loadBalancer.", p.GetLoadBalancer())
	j.duration(f+"connectionPool.tcp.connectTimeout", p.GetConnectionPool().GetTcp().GetConnectTimeout(), false)
	j.clientTLS(f+"tls.", p.GetTls())
	seen := make(map[uint32]bool)
	for i, s := range p.GetPortLevelSettings() {
		at := fmt.Sprintf("%sportLevelSettings[%d].", f, i)
		number := s.GetPort().GetNumber()
		j.port(at+"port.number", number)
		if seen[number] {
			j.refuse(at+"port.number", "%d is given twice", number)
		}
		seen[number] = true
		j.balancer(at+"loadBalancer.", s.GetLoadBalancer())
		j.duration(at+"connectionPool.tcp.connectTimeout", s.GetConnectionPool().GetTcp().GetConnectTimeout(), false)
		j.clientTLS(at+"tls.", s.GetTls())
	}
}

func (j *judge) balancer(f string, b *networking.LoadBalancerSettings) {
	if b.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
		j.refuse(f+"simple", "PASSTHROUGH is not honoured: use LEAST_REQUEST, ROUND_ROBIN or RANDOM")
	}
}

func (j *judge) clientTLS(f string, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	switch t.GetMode() {
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
	case networking.ClientTLSSettings_DISABLE:
		if len(t.GetSubjectAltNames()) > 0 {
			j.refuse(f+"subjectAltNames", "means nothing without TLS: mode is DISABLE")
		}
	default:
		j.refuse(f+"mode", "%s is not supported: use ISTIO_MUTUAL or DISABLE", t.GetMode())
	}
	j.subjectAltNames(f+"subjectAltNames", t.GetSubjectAltNames())
}
