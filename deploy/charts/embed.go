// Package charts carries the Helm chart, with the CustomResourceDefinitions that it installs, inside the executable: 'signet
// install' renders the same files that Helm does.
package charts

import (
	"embed"
	"io/fs"
)

// all: takes the files whose names begin with an underscore, which hold the chart's named templates.
//
//go:embed all:signet
var files embed.FS

// Signet is the chart's folder.
func Signet() fs.FS {
	dir, err := fs.Sub(files, "signet")
	if err != nil { // the name is a constant, and valid
		panic(err)
	}
	return dir
}
