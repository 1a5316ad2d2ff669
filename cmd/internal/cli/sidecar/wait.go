package sidecar

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/proxy/capture"
)

// waitCommand is the hook that holds a pod's programs until the sidecar is ready.
func waitCommand() *cobra.Command {
	var timeout time.Duration
	url := "http://127.0.0.1:" + strconv.Itoa(capture.ReadyPort) + "/healthz/ready"
	c := &cobra.Command{
		Use:     "wait",
		Example: `  lifecycle: {postStart: {exec: {command: [/signet-proxy, wait]}}}`,
		Short:   "Wait until the sidecar of this pod is ready",
		Long: `Wait until the sidecar of this pod has a certificate and a configuration. It is the postStart hook of a sidecar
that is an ordinary container: kubelet starts the next container when it is done.

Exit codes: 0 the sidecar is ready, 1 it was not in time, 2 a mistake in a flag.`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			return waitReady(ctx, url)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	c.Flags().StringVar(&url, "url", url, "where the sidecar says so")
	return c
}

func waitReady(ctx context.Context, url string) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return cli.Mistake(fmt.Errorf("reading --url %q: %w", url, err))
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %s", resp.Status)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the sidecar at %s: not ready in time: %w", url, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
