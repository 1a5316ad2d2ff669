//go:build !linux

// Command signet-proxy is the sidecar of one workload.
package main

import (
	"os"

	"github.com/signet-mesh/signet/cmd/internal/elsewhere"
)

func main() { os.Exit(elsewhere.Main("signet-proxy")) }
