package plane

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/signet-mesh/signet/mesh"
)

// MaxProgrammed bounds the answer to GET /programmed, in bytes.
const MaxProgrammed = 16 << 20

// programmedAge is how long one answer is given again: whoever asks more often does not make it count more often.
const programmedAge = 250 * time.Millisecond

// Programmed is what one replica of a control plane knows of which proxies run on what: GET /programmed of its metrics port.
type Programmed struct {
	Objects []ProgrammedObject `json:"objects"`
}

// ProgrammedObject is one object that stands. Version is that of its content, the same on every replica that has it alike;
// Wanted are the replica's proxies that need it, Acked those of them that run on this version, and Refusal is what one of the
// others said (adsserver.Tally).
type ProgrammedObject struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Version   string `json:"version"`
	Acked     int    `json:"acked"`
	Wanted    int    `json:"wanted"`
	Refusal   string `json:"refusal,omitempty"`
}

// Key is the object's.
func (o *ProgrammedObject) Key() mesh.Key {
	return mesh.Key{Group: o.Group, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
}

// programmed is the last answer.
type programmed struct {
	mu   sync.Mutex // guards what follows, and is held while counting: one counts at a time
	at   time.Time
	text []byte
}

// Programmed counts the proxies of this replica for the objects of FrontConfig.Standing.
func (f *Front) Programmed() Programmed {
	objects := f.cfg.Standing()
	out := Programmed{Objects: make([]ProgrammedObject, 0, len(objects))}
	for i, t := range f.ads.Programmed(objects...) {
		if o := objects[i]; t.Version != "" {
			out.Objects = append(out.Objects, ProgrammedObject{o.Group, o.Kind, o.Namespace, o.Name, t.Version, t.Acked, t.Wanted, clip(t.Refusal)})
		}
	}
	return out
}

// maxRefusal bounds what is passed on of one refusal, in bytes.
const maxRefusal = 1 << 10

func clip(refusal string) string {
	if len(refusal) > maxRefusal {
		refusal = strings.ToValidUTF8(refusal[:maxRefusal], "") + "..."
	}
	return refusal
}

func (f *Front) answerProgrammed(w http.ResponseWriter, _ *http.Request) {
	text, err := f.programmedText()
	if err != nil || len(text) > MaxProgrammed {
		http.Error(w, "there are too many objects", http.StatusInsufficientStorage)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

func (f *Front) programmedText() ([]byte, error) {
	p := &f.programmed
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text != nil && time.Since(p.at) < programmedAge {
		return p.text, nil
	}
	text, err := json.Marshal(f.Programmed())
	if err != nil {
		return nil, err
	}
	p.at, p.text = time.Now(), text
	return text, nil
}
