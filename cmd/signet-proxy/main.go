//go:build linux

// Command signet-proxy is the sidecar of one workload.
package main

import (
	"os"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/cli/sidecar"
)

func main() { os.Exit(cli.Main(sidecar.Command())) }
