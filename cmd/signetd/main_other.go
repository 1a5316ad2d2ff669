//go:build !linux

// Command signetd is the control plane: the CA and configuration discovery.
package main

import (
	"os"

	"github.com/signet-mesh/signet/cmd/internal/elsewhere"
)

func main() { os.Exit(elsewhere.Main("signetd")) }
