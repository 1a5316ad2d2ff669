package lease

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Limits of a RateLimitStore.
const (
	maxURL       = 2048 // bytes
	maxAddresses = 64
	maxUsername  = 256     // bytes
	maxPassword  = 4096    // bytes
	maxCA        = 1 << 20 // bytes of PEM
)

const (
	callTimeout = 500 * time.Millisecond // one round trip, in the background; no request waits for it
	dialTimeout = time.Second
	connections = 6 // to one server: those of the workers, the heartbeat's and one to spare
)

// Validate reports what is wrong with the description of a store. No error shows the password. The forms of the URL are
// those of go-redis, of whose options only these are taken:
//
//	redis://[USER@]HOST[:6379][/DB]                            one server
//	redis://[USER@]HOST[:6379]?addr=HOST:PORT[&addr=...]       a Cluster, by any of its nodes
//	redis://[USER@]HOST[:6379]?cluster=true                    a Cluster, by one of its nodes
//	redis://[USER@]HOST[:6379][/DB]?master_name=NAME[&addr=HOST:PORT...][&sentinel_auth=true]
//	                                                           the master NAME, by Sentinels at these addresses
//
// rediss is the same over TLS 1.2 or newer, each server (a Sentinel too) verified for the host it was reached at. The
// password is not in the URL; with sentinel_auth the Sentinels are given the same user and password as the servers.
func Validate(s *policy.RateLimitStore) error {
	_, err := address(s)
	return err
}

// address reads the description of a store.
func address(s *policy.RateLimitStore) (*redis.UniversalOptions, error) {
	switch {
	case s.GetUrl() == "":
		return nil, errors.New("reading the store of global limits: no url")
	case len(s.GetUrl()) > maxURL || len(s.GetUsername()) > maxUsername || len(s.GetPassword()) > maxPassword || len(s.GetCaCertificates()) > maxCA:
		return nil, fmt.Errorf("reading the store of global limits: more than %d bytes of url, %d of username, %d of password or %d of CA certificates",
			maxURL, maxUsername, maxPassword, maxCA)
	}
	u, err := url.Parse(s.GetUrl())
	if err != nil { // whose text quotes the URL, and with it what somebody may have put there
		return nil, errors.New("reading the url of the store of global limits: not a URL")
	}
	o := &redis.UniversalOptions{Username: s.GetUsername(), Password: s.GetPassword()}
	for _, step := range []func(*redis.UniversalOptions, *url.URL) error{user, servers, query, database} {
		if err := step(o, u); err != nil {
			return nil, fmt.Errorf("reading the url of the store of global limits: %w", err)
		}
	}
	if o.TLSConfig, err = trust(u.Scheme, s.GetCaCertificates()); err != nil {
		return nil, fmt.Errorf("reading the store of global limits: %w", err)
	}
	return tuned(o), nil
}

func user(o *redis.UniversalOptions, u *url.URL) error {
	if _, ok := u.User.Password(); ok {
		return errors.New("it has a password, which belongs in a file of its own")
	}
	name := u.User.Username()
	if name != "" && o.Username != "" && name != o.Username {
		return fmt.Errorf("user %q, but username is %q", name, o.Username)
	}
	if name != "" {
		o.Username = name
	}
	if o.Username != "" && o.Password == "" {
		return fmt.Errorf("user %q, but no password", o.Username)
	}
	return nil
}

func servers(o *redis.UniversalOptions, u *url.URL) error {
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return fmt.Errorf("scheme %q is not redis or rediss", u.Scheme)
	}
	if u.Hostname() == "" || u.Opaque != "" || u.Fragment != "" {
		return errors.New("it has no host, or a fragment")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
		if u.Query().Get("master_name") != "" {
			port = "26379"
		}
	}
	o.Addrs = []string{net.JoinHostPort(u.Hostname(), port)}
	return nil
}

// query reads the parameters. A value is quoted only where it can't be a secret.
func query(o *redis.UniversalOptions, u *url.URL) error {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("its query can't be read")
	}
	o.MasterName = values.Get("master_name")
	o.Addrs = append(o.Addrs, values["addr"]...)
	if len(o.Addrs) > maxAddresses {
		return fmt.Errorf("more than %d addresses", maxAddresses)
	}
	o.IsClusterMode = o.MasterName == "" && (len(o.Addrs) > 1 || values.Get("cluster") == "true")
	if values.Get("sentinel_auth") == "true" {
		o.SentinelUsername, o.SentinelPassword = o.Username, o.Password
	}
	for key, all := range values {
		if len(all) != 1 && key != "addr" {
			return fmt.Errorf("parameter %q twice", key)
		}
		for _, v := range all {
			if err := parameter(o, key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func parameter(o *redis.UniversalOptions, key, value string) error {
	switch key {
	case "addr":
		host, port, err := net.SplitHostPort(value)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return errors.New("an addr is not HOST:PORT")
		}
	case "master_name":
		if value == "" {
			return errors.New("master_name is empty")
		}
	case "cluster", "sentinel_auth":
		if value != "true" && value != "false" {
			return fmt.Errorf("%s is neither true nor false", key)
		}
		if o.MasterName == "" && key == "sentinel_auth" || o.MasterName != "" && key == "cluster" {
			return fmt.Errorf("%s does not go with what the other parameters say", key)
		}
	default:
		return fmt.Errorf("parameter %q is not addr, cluster, master_name or sentinel_auth", key)
	}
	return nil
}

func database(o *redis.UniversalOptions, u *url.URL) error {
	path := strings.Trim(u.Path, "/")
	if path == "" {
		return nil
	}
	n, err := strconv.ParseUint(path, 10, 16)
	if err != nil {
		return errors.New("its path is not the number of a database")
	}
	if o.IsClusterMode && n != 0 {
		return errors.New("a Cluster has database 0 only")
	}
	o.DB = int(n)
	return nil
}

func trust(scheme, ca string) (*tls.Config, error) {
	if scheme != "rediss" {
		if ca != "" {
			return nil, errors.New("CA certificates, but the url is not rediss")
		}
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12} // no ServerName: each server's is the host that is dialled
	if ca == "" {
		return cfg, nil
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("reading CA certificates: no certificate in PEM")
	}
	return cfg, nil
}

// tuned sets how the client behaves: it never repeats a call by itself (tokens would be taken twice) and keeps to our
// deadlines.
func tuned(o *redis.UniversalOptions) *redis.UniversalOptions {
	o.MaxRetries = -1
	o.DialTimeout, o.DialerRetries = dialTimeout, 1
	o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = callTimeout, callTimeout, callTimeout
	o.ContextTimeoutEnabled = true
	o.PoolSize, o.PipelinePoolSize = connections, -1
	o.Protocol = 2
	o.DisableIdentity = true
	o.FailingTimeoutSeconds = 1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.Addrs = slices.Clip(o.Addrs)
	return o
}
