package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestStoreIsRefused: a store that is not who it should be, or that does not take the password, is away, and says so. One
// that comes later is used as soon as it is there.
func TestStoreIsRefused(t *testing.T) {
	t.Parallel()
	redis, other, late := startRedis(t, true), startRedis(t, true), startRedis(t, false)
	late.kill()
	for name, c := range map[string]struct {
		flags []string
		says  string
	}{
		"another CA":     {[]string{"--redis", redis.url, "--redis-password-file", redis.passwordFile, "--redis-ca-file", other.caFile}, "certificate"},
		"wrong password": {[]string{"--redis", redis.url, "--redis-password-file", redis.file("wrong", "Wrong-Battery"), "--redis-ca-file", redis.caFile}, "WRONGPASS"},
		"nobody there":   {late.flags(), "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := &pantry{redis: redis, t: t}
			k.running = up(t, map[string]string{"mesh.yaml": bench(addr(), echo(t, nil)), "limits.yaml": globalLimits}, c.flags...)
			k.store("away")
			s, _ := k.status(t)
			for _, x := range s.Sidecars {
				if st := x.Policies.Store; st != nil && !strings.Contains(st.Error, c.says) {
					t.Errorf("%s: %+v, want %q", x.Workload.Name, *st, c.says)
				}
			}
			k.logged(t, "the store of global limits is away", c.says)
			k.always("/shut", 429)
			k.always("/open", 200)
			k.secret()
			if name == "nobody there" {
				late.start()
				k.store("up")
				k.always("/shut", 200)
			}
		})
	}
}

// TestNoStore: without a Redis, a global limit is refused before the start, and closed when it comes later.
func TestNoStore(t *testing.T) {
	t.Parallel()
	ip := addr()
	dir := directory(t, map[string]string{"mesh.yaml": bench(ip, 1), "limits.yaml": globalLimits})
	plain := directory(t, map[string]string{"mesh.yaml": bench(ip, 1)})
	for name, c := range map[string]struct {
		args []string
		exit int
		says []string
	}{
		"up":            {[]string{"signet", "up", "--state", shortDir(t), "--control-address", "127.0.0.1:0", dir}, 2, []string{"limits.yaml:", "RateLimitPolicy lab/oven: spec.global", "--redis", "nothing was started"}},
		"validate":      {[]string{"signet", "validate", dir}, 2, []string{"limits.yaml:", "RateLimitPolicy lab/oven: spec.global", "--redis"}},
		"with redis":    {[]string{"signet", "validate", "--redis", "redis://127.0.0.1:1", dir}, 0, []string{"objects are good"}},
		"in the URL":    {[]string{"signet", "validate", "--redis", "redis://:Some-Battery@127.0.0.1:1", dir}, 2, []string{"--redis", "password"}},
		"another store": {[]string{"signet", "up", "--redis", "memcached://127.0.0.1:1", plain}, 2, []string{"--redis", "memcached"}},
		"no file":       {[]string{"signet", "up", "--redis", "redis://127.0.0.1:1", "--redis-password-file", plain + "/none", plain}, 2, []string{"--redis-password-file", "/none"}},
		"no redis":      {[]string{"signet", "up", "--redis-password-file", plain + "/mesh.yaml", plain}, 2, []string{"need --redis"}},
		"no service":    {[]string{"signetd", "--state", shortDir(t), "--control-address", "127.0.0.1:0", "--ratelimit-address", "127.0.0.1:0", plain}, 2, []string{"--ratelimit-address needs --redis"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, exit := run(t, c.args[0], c.args[1:]...)
			if exit != c.exit {
				t.Errorf("exit code %d, want %d", exit, c.exit)
			}
			wants(t, out+errs, c.says...)
			if strings.Contains(out+errs, "Battery") {
				t.Errorf("shows a password:\n%s", out+errs)
			}
		})
	}
	t.Run("while it runs", appearsWithoutStore)
}

func appearsWithoutStore(t *testing.T) {
	k := &pantry{t: t}
	local := rateLimit("lab/till", "selector: {matchLabels: {app: till}}\nlocal: {rules: [{clientSelectors: [{path: {value: /till}}], limit: {requests: 1, unit: Hour}}]}")
	k.running = up(t, map[string]string{"mesh.yaml": bench(addr(), echo(t, nil)), "till.yaml": local, "limits.yaml": ""})
	till := func(path string) string {
		return code(t, "-x", "http://"+k.workload("lab/web").Outbound, "http://till.lab"+path)
	}
	k.always("/any", 200)
	if s, exit := k.status(t); exit != 0 || len(s.Control.Problems) != 0 {
		t.Errorf("status ends with %d: %+v", exit, s.Control.Problems)
	}

	k.write("till.yaml", strings.Replace(local, "local:", "global:", 1)) // there was a good version
	k.finds(map[string]string{"till": "refused"})
	if a, b, c := till("/till"), till("/till"), till("/"); a != "200" || b != "429" || c != "200" {
		t.Errorf("the last good version does not go on: %s %s %s", a, b, c)
	}
	table, _, _ := run(t, "signet", "status", "--state", k.State)
	wants(t, table, "refused  RateLimitPolicy lab/till", "--redis")
	k.write("till.yaml", local)
	k.finds(map[string]string{})

	k.write("limits.yaml", globalLimits) // there was none
	k.always("/day", 429)
	k.always("/any", 429) // not only where a rule would match
	out, _ := curl(t, "-x", "http://"+k.workload("lab/web").Outbound, "http://oven.lab/any")
	wants(t, out, "HTTP/1.1 429 ", "retry-after: ")
	k.logged(t, `^\{"workload":"lab.oven`, `"path":"/any"`, `"response_code":429`, `"response_flags":"RL"`, `"denied_by":"RateLimitPolicy/lab/oven"`)
	k.logged(t, "RateLimitPolicy lab/oven: spec.global", "--redis")
	k.finds(map[string]string{"oven": "quarantined"})
	table, _, _ = run(t, "signet", "status", "--state", k.State)
	wants(t, table, "quarantined  RateLimitPolicy lab/oven", "--redis")
	if got := till("/"); got != "200" {
		t.Errorf("another workload: %s", got)
	}
	k.write("limits.yaml", "# nothing\n---\n")
	k.finds(map[string]string{})
	k.always("/any", 200)
}

// finds waits until status has just these findings about RateLimitPolicies of lab, by name.
func (k *pantry) finds(want map[string]string) {
	k.t.Helper()
	eventually(k.t, 5*time.Second, func() string {
		s, exit := k.status(k.t)
		got := map[string]string{}
		for _, p := range s.Control.Problems {
			if p.Kind == "RateLimitPolicy" && p.Namespace == "lab" && p.Field == "spec.global" && strings.Contains(p.Message, "--redis") {
				got[p.Name] = p.State
			}
		}
		if code := map[bool]int{true: 0, false: 3}[len(want) == 0]; exit != code || fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("exit %d, %v; want %v: %+v", exit, got, want, s.Control.Problems)
		}
		return ""
	})
}
