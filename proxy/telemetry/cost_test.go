package telemetry

import (
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

// warm is a recorder whose buffers have grown to their bound and that knows the records.
func warm(form AccessLog, recs ...*proxy.Record) *Recorder {
	r := New(Config{Workload: "shop.cart", AccessLog: form})
	for range 5000 {
		for _, rec := range recs {
			r.Record(rec)
		}
	}
	for range 3 {
		r.lines.flush()
	}
	return r
}

func TestRecordDoesNotAllocate(t *testing.T) {
	kinds := records()
	for _, form := range []AccessLog{LogOff, LogText, LogJSON} {
		r := warm(form, kinds["ok"], kinds["stream"], kinds["failed"])
		for _, name := range []string{"ok", "stream", "failed"} {
			if n := testing.AllocsPerRun(500, func() { r.Record(kinds[name]) }); n != 0 {
				t.Errorf("form %d, %s: %v allocations", form, name, n)
			}
		}
		if n := testing.AllocsPerRun(500, func() { r.Opened(kinds["stream"]) }); n > 0 {
			t.Errorf("Opened: %v allocations", n)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	for name, form := range map[string]AccessLog{"metrics": LogOff, "text": LogText, "json": LogJSON} {
		b.Run(name, func(b *testing.B) {
			rec := exchange()
			r := warm(form, rec)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if r.Record(rec); i%128 == 0 {
					r.lines.flush()
				}
			}
		})
	}
}
