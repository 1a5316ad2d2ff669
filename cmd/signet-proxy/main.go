// Command signet-proxy is the sidecar of one workload.
package main

import (
	"os"

	"github.com/signet-mesh/signet/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(cli.Proxy())) }
