package lease

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/mesh/policy"
)

func TestAddress(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"redis://a", "*redis.Client [a:6379] db 0 tls false user "},
		{"redis://a:1/", "*redis.Client [a:1] db 0 tls false user "},
		{"rediss://bob@a:1/15", "*redis.Client [a:1] db 15 tls true user bob"},
		{"redis://[::1]:7", "*redis.Client [[::1]:7] db 0 tls false user "},
		{"redis://a?cluster=false", "*redis.Client [a:6379] db 0 tls false user "},
		{"redis://a?cluster=true", "*redis.ClusterClient [a:6379] db 0 tls false user "},
		{"rediss://a?addr=b:1&addr=c:2", "*redis.ClusterClient [a:6379 b:1 c:2] db 0 tls true user "},
		{"redis://a/2?master_name=m", "*redis.Client [a:26379] db 2 tls false user "},
		{"redis://a?master_name=m&addr=b:26379", "*redis.Client [a:26379 b:26379] db 0 tls false user "},
		{"redis://a?master_name=m&sentinel_auth=true", "*redis.Client [a:26379] db 0 tls false user "},
	} {
		o, err := address(&policy.RateLimitStore{Url: tc.url, Password: "p"})
		if err != nil {
			t.Errorf("%s: %v", tc.url, err)
			continue
		}
		c := redis.NewUniversalClient(o)
		c.Close()
		if got := fmt.Sprintf("%T %v db %d tls %v user %s", c, o.Addrs, o.DB, o.TLSConfig != nil, o.Username); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.url, got, tc.want)
		}
		if (o.SentinelPassword == "p") != strings.Contains(tc.url, "sentinel_auth") || o.MaxRetries != -1 {
			t.Errorf("%s: %+v", tc.url, o)
		}
	}
}

func TestAddressRefused(t *testing.T) {
	const secret = "s3cret"
	for url, want := range map[string]string{
		"":                                       "no url",
		"redis://:s3cret@a":                      "password",
		"redis://bob:s3cret@a":                   "password",
		"redis://:s3cret@a:x":                    "not a URL",
		"redis://:s3cret%zz@a":                   "not a URL",
		"http://a":                               "scheme",
		"unix:///run/redis.sock":                 "scheme",
		"a:6379":                                 "scheme",
		"redis:a":                                "host",
		"redis://":                               "host",
		"redis://a/x":                            "database",
		"redis://a/1/2":                          "database",
		"redis://a/1?cluster=true":               "Cluster",
		"redis://a?password=s3cret":              "parameter",
		"redis://a?skip_verify=true":             "parameter",
		"redis://a?max_retries=3":                "parameter",
		"redis://a?cluster=yes":                  "cluster",
		"redis://a?cluster=true&cluster=true":    "twice",
		"redis://a?master_name=":                 "master_name",
		"redis://a?master_name=m&cluster=true":   "cluster",
		"redis://a?sentinel_auth=true":           "sentinel_auth",
		"redis://a?addr=b":                       "addr",
		"redis://a?addr=b:0":                     "addr",
		"redis://a?addr=" + secret + ":x":        "addr",
		"redis://a?x=%zz":                        "query",
		"redis://a#b":                            "fragment",
		"redis://" + strings.Repeat("a", maxURL): "bytes",
		"redis://a?" + strings.Repeat("addr=b:1&", maxAddresses): "addresses",
	} {
		err := Validate(&policy.RateLimitStore{Url: url, Password: secret})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want an error with %q", url, err, want)
		}
	}
	for name, s := range map[string]*policy.RateLimitStore{
		"two users":       {Url: "redis://bob@a", Username: "eve", Password: secret},
		"no password":     {Url: "redis://bob@a"},
		"CA without TLS":  {Url: "redis://a", CaCertificates: "x"},
		"CA not PEM":      {Url: "rediss://a", CaCertificates: "x"},
		"a huge password": {Url: "redis://a", Password: strings.Repeat("p", maxPassword+1)},
	} {
		if err := Validate(s); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"", strings.Repeat("a", maxID+1)} {
		if _, err := New(Config{Store: &policy.RateLimitStore{Url: "redis://a"}, ID: id}); err == nil {
			t.Errorf("ID of %d bytes accepted", len(id))
		}
	}
	if _, err := New(Config{ID: "a"}); err == nil {
		t.Error("no store accepted")
	}
}
