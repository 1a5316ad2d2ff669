package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/signet-mesh/signet/mesh"
)

// LastGoodConfigMap keeps, in the system namespace, the last good versions of objects that are refused as they are written
// now: the API server holds only the newest.
const LastGoodConfigMap = "signet-last-good"

const (
	// maxLastGood bounds the ConfigMap's data, in bytes; the API server takes 1 MiB.
	maxLastGood = 900 << 10
	// retry is how long to wait after the API server refused something.
	retry = time.Second
)

// good are the last good versions that stand in for what is refused now, and those that were read at the start.
type good struct {
	changed chan struct{} // holds one

	mu    sync.Mutex // guards what follows
	kept  map[mesh.Key]saved
	start map[mesh.Key]saved
	// told: they were set once, so that what was read at the start may be replaced.
	told bool
}

// saved is one of them. The uid is that of the object: one that was deleted and written again has no past.
type saved struct {
	UID    types.UID
	object *mesh.Object
	text   []byte
}

// stored is the form of one in the ConfigMap.
type stored struct {
	Key    mesh.Key        `json:"key"`
	UID    types.UID       `json:"uid"`
	Object json.RawMessage `json:"object"`
}

func (g *good) set(kept map[mesh.Key]saved) {
	g.mu.Lock()
	same := g.told && maps.EqualFunc(g.kept, kept, func(a, b saved) bool { return a.UID == b.UID && string(a.text) == string(b.text) })
	g.kept, g.told = kept, true
	g.mu.Unlock()
	if same {
		return
	}
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// restored is the last good version that was read at the start, nil if there was none.
func (g *good) restored(key mesh.Key, uid types.UID) (*mesh.Object, []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s, ok := g.start[key]; ok && s.UID == uid {
		return s.object, s.text
	}
	return nil, nil
}

// restore reads the ConfigMap. While the API server can't be asked it asks again; the error is that of ctx.
func (s *Source) restore(ctx context.Context) error {
	for said := ""; ; {
		c, err := s.cfg.Client.CoreV1().ConfigMaps(s.cfg.SystemNamespace).Get(ctx, s.cfg.LastGood, metav1.GetOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			if err == nil {
				s.revive(c)
			}
			return nil
		}
		if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			s.log.Error("last good objects can't be read, asking again", "configmap", s.cfg.LastGood, "error", err)
		}
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// revive judges what was kept as if it had just been written: what this version refuses is not used.
func (s *Source) revive(c *corev1.ConfigMap) {
	start := map[mesh.Key]saved{}
	for _, text := range c.Data {
		var one stored
		err := json.Unmarshal([]byte(text), &one)
		if err == nil {
			o, problems := s.parse(one.Key, one.Object)
			if o != nil {
				start[one.Key] = saved{one.UID, o, one.Object}
				continue
			}
			err = fmt.Errorf("%v", mesh.Refusals(problems))
		}
		s.log.Error("a last good object is damaged and not used", "object", one.Key.String(), "error", err)
	}
	s.good.mu.Lock()
	s.good.start = start
	s.good.mu.Unlock()
}

// Keep writes the last good versions that are in use to the ConfigMap whenever they change, until ctx ends; then it returns
// nil. One replica at a time may run it: the leader.
func (s *Source) Keep(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.synced:
	}
	said := ""
	for {
		err := s.save(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			s.log.Error("last good objects can't be saved, trying again", "configmap", s.cfg.LastGood, "error", err)
			said = err.Error()
		}
		var again <-chan time.Time
		if err != nil {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.good.changed:
		case <-again:
		}
	}
}

func (s *Source) save(ctx context.Context) error {
	data, left := s.good.encode()
	if left > 0 {
		s.log.Error("too many last good objects to keep them all: mend what is refused", "configmap", s.cfg.LastGood, "left_out", left)
	}
	client := s.cfg.Client.CoreV1().ConfigMaps(s.cfg.SystemNamespace)
	have, err := client.Get(ctx, s.cfg.LastGood, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if len(data) == 0 {
			return nil
		}
		_, err = client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: s.cfg.LastGood}, Data: data}, metav1.CreateOptions{})
		return err
	}
	if err != nil || maps.Equal(have.Data, data) {
		return err
	}
	have.Data = data
	_, err = client.Update(ctx, have, metav1.UpdateOptions{}) // with its resourceVersion: nobody else's write is lost
	return err
}

// encode is the data of the ConfigMap, and how many objects had no room. Its keys are hashes: the names of objects are longer
// than a key may be.
func (g *good) encode() (data map[string]string, left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	data = map[string]string{}
	size := 0
	for _, key := range slices.SortedFunc(maps.Keys(g.kept), compareKeys) {
		one, err := json.Marshal(stored{key, g.kept[key].UID, g.kept[key].text})
		if err != nil || size+len(one) > maxLastGood {
			left++
			continue
		}
		size += len(one)
		sum := sha256.Sum256([]byte(key.Group + "/" + key.Kind + "/" + key.Namespace + "/" + key.Name))
		data[hex.EncodeToString(sum[:])] = string(one)
	}
	return data, left
}
