package adswire

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
)

// metadataKey is the filter_metadata key of what Envoy's endpoint has no field for; its struct has the string fields
// identity, tlsMode and workload and the struct labels, each absent when empty.
const metadataKey = "signet.dev"

const unixPrefix = "unix://"

// encodeEndpoints makes the resource of the endpoints of one port of one service.
func encodeEndpoints(c mesh.Cluster, eps []mesh.Endpoint) (Resource, error) {
	name := clusterName(c)
	cla, err := assignment(name, eps)
	if err != nil {
		return Resource{}, fmt.Errorf("encoding endpoints %s: %w", name, err)
	}
	return seal(EndpointType, cla.ClusterName, cla)
}

func assignment(cluster string, eps []mesh.Endpoint) (*endpoint.ClusterLoadAssignment, error) {
	lbs := make([]*endpoint.LbEndpoint, len(eps))
	for i := range eps {
		lb, err := encodeEndpoint(&eps[i])
		if err != nil {
			return nil, err
		}
		lbs[i] = lb
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints:   []*endpoint.LocalityLbEndpoints{{LbEndpoints: lbs}},
	}, nil
}

func encodeEndpoint(e *mesh.Endpoint) (*endpoint.LbEndpoint, error) {
	addr, err := encodeAddress(e.Address)
	if err != nil {
		return nil, err
	}
	fields := map[string]*structpb.Value{}
	for k, v := range map[string]string{"identity": e.Identity.String(), "tlsMode": e.TLSMode, "workload": e.Workload} {
		if v != "" {
			fields[k] = structpb.NewStringValue(v)
		}
	}
	if len(e.Labels) > 0 {
		labels := map[string]*structpb.Value{}
		for k, v := range e.Labels {
			labels[k] = structpb.NewStringValue(v)
		}
		fields["labels"] = structpb.NewStructValue(&structpb.Struct{Fields: labels})
	}
	lb := &endpoint.LbEndpoint{
		HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: addr}},
	}
	if len(fields) > 0 {
		lb.Metadata = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataKey: {Fields: fields}}}
	}
	if e.Weight != 0 {
		lb.LoadBalancingWeight = wrapperspb.UInt32(e.Weight)
	}
	return lb, nil
}

func encodeAddress(s string) (*core.Address, error) {
	if path, ok := strings.CutPrefix(s, unixPrefix); ok {
		return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: path}}}, nil
	}
	host, port, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(port, 10, 16)
	name, ok := hostOf(host)
	if err != nil || err2 != nil || !ok {
		return nil, fmt.Errorf("address %q is neither IP:port nor HOST:port nor unix:///path", s)
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address:       name,
		PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}, nil
}

// hostOf is the one spelling of an IP address (with its zone) or a host.
func hostOf(s string) (string, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String(), true
	}
	return mesh.Name(s)
}

// decodeEndpoints reads the body of a resource of EndpointType.
func decodeEndpoints(name string, body *anypb.Any) ([]mesh.Endpoint, error) {
	var cla endpoint.ClusterLoadAssignment
	if err := unmarshalStrict(body, &cla); err != nil {
		return nil, err
	}
	if err := checkCluster(name); err != nil {
		return nil, err
	}
	var eps []mesh.Endpoint
	for _, l := range cla.GetEndpoints() {
		for i, lb := range l.GetLbEndpoints() {
			e, err := decodeEndpoint(lb)
			if err != nil {
				return nil, fmt.Errorf("endpoint %d: %w", i, err)
			}
			eps = append(eps, e)
		}
	}
	// Whatever was not read above is missing in what is written again.
	again, err := assignment(name, eps)
	if err != nil {
		return nil, err
	}
	if !proto.Equal(again, &cla) {
		return nil, fmt.Errorf("endpoints carry something that this version does not know, or another name than %q", name)
	}
	return eps, nil
}

func decodeEndpoint(lb *endpoint.LbEndpoint) (mesh.Endpoint, error) {
	e := mesh.Endpoint{Weight: lb.GetLoadBalancingWeight().GetValue()}
	switch a := lb.GetEndpoint().GetAddress().GetAddress().(type) {
	case *core.Address_Pipe:
		e.Address = unixPrefix + a.Pipe.GetPath()
	case *core.Address_SocketAddress:
		host, ok := hostOf(a.SocketAddress.GetAddress())
		port := a.SocketAddress.GetPortValue()
		if !ok || port > 65535 {
			return e, fmt.Errorf("address %q port %d is not an IP address or a host, and a port", a.SocketAddress.GetAddress(), port)
		}
		e.Address = net.JoinHostPort(host, strconv.Itoa(int(port)))
	default:
		return e, fmt.Errorf("address of type %T is not known", a)
	}
	fields := lb.GetMetadata().GetFilterMetadata()[metadataKey].GetFields()
	if id := fields["identity"].GetStringValue(); id != "" {
		var err error
		if e.Identity, err = identity.Parse(id); err != nil {
			return e, err
		}
	}
	e.TLSMode = fields["tlsMode"].GetStringValue()
	e.Workload = fields["workload"].GetStringValue()
	if l := fields["labels"].GetStructValue().GetFields(); len(l) > 0 {
		e.Labels = make(map[string]string, len(l))
		for k, v := range l {
			e.Labels[k] = v.GetStringValue()
		}
	}
	return e, nil
}

// The first words of the names of clusters.
const (
	outbound    = "outbound"
	inbound     = "inbound"
	authorizing = "authorizer"
)

func clusterName(c mesh.Cluster) string {
	switch c.Use {
	case mesh.Inbound:
		return fmt.Sprintf("%s|%d|%s/%s|%s", inbound, c.Port, c.Key.Kind, c.Key.Namespace, c.Key.Name)
	case mesh.Authorizing:
		return fmt.Sprintf("%s|%d|%s/%s/%s|%s", authorizing, c.Port, c.Key.Kind, c.Key.Namespace, c.Key.Name, c.Host)
	}
	return ClusterName(c.Port, c.Host)
}

// checkCluster judges the name of a cluster: its four parts, the port, and words where words must be.
func checkCluster(name string) error {
	part := strings.SplitN(name, "|", 4)
	if len(part) == 4 && part[3] != "" {
		n, err := strconv.ParseUint(part[1], 10, 16)
		canonical := err == nil && strconv.FormatUint(n, 10) == part[1]
		switch slashes := strings.Count(part[2], "/"); {
		case !canonical:
		case part[0] == outbound && part[2] == "", part[0] == inbound && slashes == 1, part[0] == authorizing && slashes == 2:
			return nil
		}
	}
	return fmt.Errorf("name %q is not outbound|PORT||HOST, nor that of the endpoints of an own service or an authorizer", name)
}
