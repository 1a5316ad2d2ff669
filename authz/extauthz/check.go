package extauthz

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/signet-mesh/signet/authz"
)

// partialBody says to an authorizer whether it was shown the beginning of a body only. A client's own is not shown.
const partialBody = "x-envoy-auth-partial-body"

// fieldLister is implemented by an authz.Headers that can name its fields; without it a request cannot be shown.
type fieldLister interface {
	// EachField calls f for each field in order, its name in lower case.
	EachField(f func(name, value string))
}

// checkRequest is what Envoy sends: the source is the directly connected peer, without a port (it is not known); the
// request is as it will be forwarded, with the pseudo headers of HTTP/2 and repeated fields joined by commas. The request
// is nil for a TCP connection. Strings are shared with the request. Protobuf's strings are UTF-8, so that a request with a
// header, path or unpacked body that is not cannot be shown: it is refused, since to leave it out would hide what a policy
// may have to see.
func checkRequest(c *authz.Connection, r *authz.Request, principal string, packed bool) (*auth.CheckRequest, *fault) {
	a := &auth.AttributeContext{
		Source:          &auth.AttributeContext_Peer{Address: address(c.SourceIP, 0), Principal: c.Peer.ID.String()},
		Destination:     &auth.AttributeContext_Peer{Address: address(c.DestinationIP, c.DestinationPort), Principal: principal},
		MetadataContext: &core.Metadata{},
	}
	if c.SNI != "" {
		a.TlsSession = &auth.AttributeContext_TLSSession{Sni: c.SNI}
	}
	if r == nil {
		return &auth.CheckRequest{Attributes: a}, nil
	}
	h := &auth.AttributeContext_HttpRequest{
		Method: r.Method, Host: r.Host, Path: r.Path + r.Query, Scheme: "http", Protocol: "HTTP/1.1", Size: -1,
	}
	if c.Peer.Proven() || c.SNI != "" {
		h.Scheme = "https"
	}
	if r.Minor == 0 {
		h.Protocol = "HTTP/1.0"
	}
	if f := showHeaders(h, r.Headers); f != nil {
		return nil, f
	}
	for _, s := range [...]string{h.Method, h.Host, h.Path, c.SNI} {
		if !utf8.ValidString(s) {
			return nil, unshown(http.StatusBadRequest, "its method, host or path is not UTF-8")
		}
	}
	if f := showBody(h, r, packed); f != nil {
		return nil, f
	}
	a.Request = &auth.AttributeContext_Request{Http: h}
	if !r.Received.IsZero() {
		a.Request.Time = timestamppb.New(r.Received)
	}
	return &auth.CheckRequest{Attributes: a}, nil
}

func showHeaders(h *auth.AttributeContext_HttpRequest, headers authz.Headers) *fault {
	h.Headers = map[string]string{":method": h.Method, ":path": h.Path, ":scheme": h.Scheme}
	if h.Host != "" {
		h.Headers[":authority"] = h.Host
	}
	if f := joinFields(h.Headers, headers); f != nil {
		return f
	}
	for name, value := range h.Headers {
		if !utf8.ValidString(value) {
			return unshown(http.StatusBadRequest, "the value of %.64q is not UTF-8", name)
		}
	}
	h.Id = h.Headers["x-request-id"]
	if n, err := strconv.ParseInt(h.Headers["content-length"], 10, 64); err == nil && n >= 0 {
		h.Size = n
	}
	return nil
}

// joinFields puts a request's fields into a map, the values of repeated ones joined by commas.
func joinFields(into map[string]string, headers authz.Headers) *fault {
	if headers == nil {
		return nil
	}
	lister, ok := headers.(fieldLister)
	if !ok {
		return unshown(0, "it cannot list its headers")
	}
	var f *fault
	lister.EachField(func(name, value string) {
		switch before, again := into[name]; {
		case !authz.IsToken(name) || strings.ContainsFunc(value, authz.IsControl):
			f = unshown(http.StatusBadRequest, "the header %.64q or its value is malformed", name)
		case name == partialBody:
		case again:
			into[name] = before + "," + value
		default:
			into[name] = value
		}
	})
	return f
}

func showBody(h *auth.AttributeContext_HttpRequest, r *authz.Request, packed bool) *fault {
	if len(r.Body) == 0 {
		return nil
	}
	h.Headers[partialBody] = strconv.FormatBool(r.Truncated)
	if packed {
		h.RawBody = r.Body
		return nil
	}
	body := r.Body
	if r.Truncated {
		body = wholeRunes(body)
	}
	if !utf8.Valid(body) {
		return unshown(http.StatusBadRequest, "its body is not UTF-8, and packAsBytes is not set")
	}
	h.Body = string(body)
	return nil
}

// wholeRunes is b without a character that is cut off at its end.
func wholeRunes(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if tail := b[len(b)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return b[:len(b)-i]
			}
			return b
		}
	}
	return b
}

func address(ip netip.Addr, port uint16) *core.Address {
	s := &core.SocketAddress{}
	if ip.IsValid() {
		s.Address = ip.Unmap().String()
	}
	if port != 0 {
		s.PortSpecifier = &core.SocketAddress_PortValue{PortValue: uint32(port)}
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: s}}
}
