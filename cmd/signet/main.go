//go:build linux

// Command signet is the person's tool: it runs a whole mesh on one machine, validates objects and mints join tokens.
package main

import (
	"os"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/cli/tool"
)

func main() { os.Exit(cli.Main(tool.Command())) }
