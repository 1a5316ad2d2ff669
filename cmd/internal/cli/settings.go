package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit/lease"
)

// maxSecretFile bounds the files of passwords and certificates that flags name, in bytes.
const maxSecretFile = 64 << 10

// Control are the flags that say what proxies must know beside the objects: the Redis of global limits and what Rego may do.
type Control struct {
	redis, username, passwordFile, caFile string
	builtins                              []string
}

// Add adds the flags.
func (c *Control) Add(f *pflag.FlagSet) {
	f.StringVar(&c.redis, "redis", "", "URL of the Redis that global rate limits share: redis://HOST:PORT/DB or rediss://...; without it such limits are refused")
	f.StringVar(&c.username, "redis-username", "", "user of Redis' ACL")
	f.StringVar(&c.passwordFile, "redis-password-file", "", "file with the password of Redis")
	f.StringVar(&c.caFile, "redis-ca-file", "", "PEM file with the CAs that Redis' certificate is verified by (default: the system's)")
	f.StringSliceVar(&c.builtins, "allow-rego-builtin", nil, "built-in function that RegoPolicies may use beside the harmless ones: http.send, net.lookup_ip_addr, opa.runtime")
}

// Validate judges the flags by themselves: no file is read. Errors are mistakes of the caller.
func (c *Control) Validate() error {
	for _, name := range c.builtins {
		switch name {
		case "http.send", "net.lookup_ip_addr", "opa.runtime":
		default:
			return Mistake(fmt.Errorf("--allow-rego-builtin %q: want http.send, net.lookup_ip_addr or opa.runtime; all others are allowed anyway", name))
		}
	}
	if c.redis == "" {
		if c.username+c.passwordFile+c.caFile != "" {
			return Mistake(fmt.Errorf("--redis-username, --redis-password-file and --redis-ca-file need --redis"))
		}
		return nil
	}
	return judgeStore(&policy.RateLimitStore{Url: c.redis, Username: c.username})
}

// Settings judges the flags and reads the files. Errors are mistakes of the caller.
func (c *Control) Settings() (*policy.ControlSettings, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	out := &policy.ControlSettings{RegoBuiltins: c.builtins}
	if c.redis == "" {
		return out, nil
	}
	store := &policy.RateLimitStore{Url: c.redis, Username: c.username}
	var err error
	if store.Password, err = readShort("--redis-password-file", c.passwordFile); err != nil {
		return nil, err
	}
	store.Password = strings.TrimRight(store.Password, "\r\n")
	if store.CaCertificates, err = readShort("--redis-ca-file", c.caFile); err != nil {
		return nil, err
	}
	if err := judgeStore(store); err != nil {
		return nil, err
	}
	out.RateLimitStore = store
	return out, nil
}

func judgeStore(s *policy.RateLimitStore) error {
	if err := lease.Validate(s); err != nil {
		return Mistake(fmt.Errorf("--redis: %w", err))
	}
	return nil
}

func readShort(flag, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxSecretFile {
		err = fmt.Errorf("has %d bytes, more than %d", info.Size(), maxSecretFile)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err == nil && len(b) == 0 {
		err = fmt.Errorf("is empty")
	}
	if err != nil {
		return "", Mistake(fmt.Errorf("reading %s %s: %w", flag, path, err))
	}
	return string(b), nil
}

// Args are the same flags for a process that is started from here.
func (c *Control) Args() []string {
	var out []string
	for _, f := range []struct{ name, value string }{{"--redis", c.redis}, {"--redis-username", c.username},
		{"--redis-password-file", absolute(c.passwordFile)}, {"--redis-ca-file", absolute(c.caFile)}} {
		if f.value != "" {
			out = append(out, f.name, f.value)
		}
	}
	for _, b := range c.builtins {
		out = append(out, "--allow-rego-builtin", b)
	}
	return out
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil && path != "" {
		return abs
	}
	return path
}
