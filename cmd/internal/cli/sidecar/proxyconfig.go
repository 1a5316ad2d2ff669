package sidecar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-mesh/signet/proxy/capture"
)

// maxEnvironment bounds each variable that holds JSON, in bytes.
const maxEnvironment = 256 << 10

// proxyConfig is what a sidecar honours of Istio's ProxyConfig.
type proxyConfig struct {
	concurrency    int // 0: as many as there are processors
	drain          time.Duration
	full           bool
	dns            *bool
	trustedProxies *int
}

// defaultDrain is terminationDrainDuration's default in Istio's ProxyConfig.
const defaultDrain = 5 * time.Second

// parseProxyConfig reads PROXY_CONFIG, a ProxyConfig in JSON (or "" for none). What is not honoured is refused by name: the
// webhook has taken out what only adds.
func parseProxyConfig(text string) (proxyConfig, error) {
	out := proxyConfig{drain: defaultDrain}
	if text == "" {
		return out, nil
	}
	if len(text) > maxEnvironment {
		return out, fmt.Errorf("%d bytes: the limit is %d", len(text), maxEnvironment)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return out, fmt.Errorf("want a ProxyConfig in JSON: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := out.field(name, fields[name]); err != nil {
			return out, fmt.Errorf("%s %s: %w", name, fields[name], err)
		}
	}
	return out, nil
}

func (c *proxyConfig) field(name string, value json.RawMessage) (err error) {
	switch name {
	case "concurrency":
		if err = json.Unmarshal(value, &c.concurrency); err == nil && (c.concurrency < 0 || c.concurrency > 1024) {
			err = fmt.Errorf("want 0 to 1024")
		}
	case "terminationDrainDuration":
		c.drain, err = parseDuration(value)
	case "drainDuration": // of listeners that a configuration takes away: pods have two that stay
		_, err = parseDuration(value)
	case "holdApplicationUntilProxyStarts": // the webhook's: see `signet-proxy wait`
		err = json.Unmarshal(value, new(bool))
	case "statusPort":
		var port int
		if err = json.Unmarshal(value, &port); err == nil && port != 0 && port != capture.MetricsPort {
			err = fmt.Errorf("is not honoured: the port is %d", capture.MetricsPort)
		}
	case "proxyMetadata":
		return c.metadata(value)
	case "gatewayTopology":
		var topology struct{ NumTrustedProxies *int }
		d := json.NewDecoder(bytes.NewReader(value))
		d.DisallowUnknownFields()
		if err = d.Decode(&topology); err == nil {
			c.trustedProxies = topology.NumTrustedProxies
		}
	default:
		err = fmt.Errorf("is not honoured: take it out of proxy.istio.io/config")
	}
	return err
}

func (c *proxyConfig) metadata(value json.RawMessage) error {
	var all map[string]string
	if err := json.Unmarshal(value, &all); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		switch name {
		case "discovery", "SIGNET_DISCOVERY":
			if v != "full" && v != "ondemand" {
				return fmt.Errorf("%s %q: want full or ondemand", name, v)
			}
			c.full = v == "full"
		case "ISTIO_META_DNS_CAPTURE":
			on, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%s %q: want true or false", name, v)
			}
			c.dns = &on
		default:
			return fmt.Errorf("%s is not honoured: take it out", name)
		}
	}
	return nil
}

// parseDuration reads a duration as protocol buffers write it in JSON: "5s", "0.5s".
func parseDuration(value json.RawMessage) (time.Duration, error) {
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > 24*time.Hour {
		return 0, fmt.Errorf("want 0s to 24h")
	}
	return d, nil
}

// parseLevel reads sidecar.istio.io/logLevel, whose words are Envoy's.
func parseLevel(text string) (slog.Level, error) {
	switch strings.ToLower(text) {
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "err", "error", "critical":
		return slog.LevelError, nil
	case "none", "off":
		return slog.LevelError + 100, nil
	}
	return 0, fmt.Errorf("%q: want trace, debug, info, warning, error, critical or off", text)
}
