package lease

import (
	"context"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/mesh/policy"
)

// The scripts. Each reads Redis' clock and touches one key, so that it runs in a Cluster.
var (
	//go:embed gcra.lua
	gcraSource string
	//go:embed quota.lua
	quotaSource string
	//go:embed proxies.lua
	proxiesSource string
)

const (
	prefix     = "signet:limit:"
	keyProxies = prefix + "proxies"
)

// scripts are the scripts with their digests.
type scripts struct{ gcra, quota, proxies script }

type script struct{ source, digest string }

func newScripts() *scripts {
	of := func(source string) script { return script{source, redis.NewScript(source).Hash()} }
	return &scripts{of(gcraSource), of(quotaSource), of(proxiesSource)}
}

// storeKey is prefix, g for a rate or q for a quota, the bucket's name and 32 hexadecimal digits, so that no two limits
// share one.
func (e *lease) storeKey() string {
	b := make([]byte, 0, len(prefix)+len(e.Name)+35)
	b = append(b, prefix...)
	if e.Calendar == 0 {
		b = append(b, "g:"...)
	} else {
		b = append(b, "q:"...)
	}
	b = append(append(b, e.Name...), ':')
	return string(hex.AppendEncode(b, e.key[:]))
}

// call is the script call that takes n tokens of a lease, or with a negative n gives back those of a window.
func (e *lease) call(s *scripts, n, proxies, window int64) *call {
	if e.Calendar == 0 {
		return &call{script: s.gcra, key: e.storeKey(), args: []any{n, e.Period.Microseconds(), e.Requests, e.Burst}}
	}
	unit := "day"
	if e.Calendar == policy.Limit_Month {
		unit = "month"
	}
	return &call{script: s.quota, key: e.storeKey(), args: []any{n, unit, e.Requests, 2 * proxies, window}}
}

// reply is what a script says.
type reply struct {
	given, left  int64
	retry, reset time.Duration
	window       int64
}

func parseReply(c *redis.Cmd) (reply, error) {
	v, err := c.Int64Slice()
	if err != nil {
		return reply{}, err
	}
	if len(v) != 5 {
		return reply{}, fmt.Errorf("the script of a limit answered %d numbers, not 5", len(v))
	}
	return reply{v[0], v[1], time.Duration(v[2]) * time.Microsecond, time.Duration(v[3]) * time.Microsecond, v[4]}, nil
}

// call is one script call of a batch.
type call struct {
	script script
	key    string
	args   []any
	reply  *redis.Cmd
}

// send makes the calls in one round trip (in a Cluster: one for each server), and another one for those whose script the
// server had not seen. It returns the first error.
func send(ctx context.Context, client redis.UniversalClient, calls []*call) error {
	unseen := calls
	for _, source := range []bool{false, true} {
		pipe := client.Pipeline()
		for _, c := range unseen {
			if source {
				c.reply = pipe.Eval(ctx, c.script.source, []string{c.key}, c.args...)
			} else {
				c.reply = pipe.EvalSha(ctx, c.script.digest, []string{c.key}, c.args...)
			}
		}
		if _, err := pipe.Exec(ctx); err != nil {
			for _, c := range unseen { // each reply has its error, but when the server refused the connection, as with WRONGPASS
				if c.reply.Err() == nil && c.reply.Val() == nil {
					c.reply.SetErr(err)
				}
			}
		}
		unseen = unseen[:0:0]
		for _, c := range calls {
			if err := c.reply.Err(); err != nil && (errors.Is(err, redis.ErrNoScript) || redis.HasErrorPrefix(err, "NOSCRIPT")) {
				unseen = append(unseen, c)
			}
		}
		if len(unseen) == 0 {
			break
		}
	}
	for _, c := range calls {
		if err := c.reply.Err(); err != nil {
			return err
		}
	}
	return nil
}
