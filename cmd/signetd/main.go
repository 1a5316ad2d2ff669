//go:build linux

// Command signetd is the control plane: the CA and configuration discovery.
package main

import (
	"os"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/cli/control"
)

func main() { os.Exit(cli.Main(control.Command())) }
