package plane

import (
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// maxOtherBytes bounds all of a discovery request but initial_resource_versions: the names asked for are most of it, which take
// adswire.MaxAsked times 256 bytes. Lists of empty messages, which the rest may hold, are some forty times as large decoded.
const maxOtherBytes = 512 << 10

// codec is gRPC's for protocol buffers, which looks at a large message before it is decoded: that a discovery request may be large
// must not let others be, and what is small on the wire may not be so in memory.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Unmarshal is part of encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if n := data.Len(); n > caserver.MaxMessageBytes {
		switch v.(type) {
		case *securityv1.IstioCertificateRequest:
			return fmt.Errorf("a certificate request of %d bytes: at most %d", n, caserver.MaxMessageBytes)
		case *discovery.DeltaDiscoveryRequest:
			if n > maxOtherBytes {
				if err := judgeLarge(data); err != nil {
					return err
				}
			}
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

// judgeLarge measures the fields of a discovery request.
func judgeLarge(data mem.BufferSlice) error {
	const initialResourceVersions = 5
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	other := 0
	for b := buf.ReadOnlyData(); len(b) > 0; {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if number != initialResourceVersions {
			other += n
		}
		b = b[n:]
	}
	if other > maxOtherBytes {
		return fmt.Errorf("a discovery request with %d bytes beside initial_resource_versions: at most %d (%d names)", other, maxOtherBytes, adswire.MaxAsked)
	}
	return nil
}
