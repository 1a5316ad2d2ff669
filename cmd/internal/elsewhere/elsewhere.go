// Package elsewhere is what the executables are on a system that is not Linux: a word on what is missing there.
package elsewhere

import (
	"fmt"
	"os"
	"runtime"
)

// Main says why the program can't run here and returns the exit code.
func Main(name string) int {
	fmt.Fprintf(os.Stderr, "%s runs on Linux. On %s it lacks: loopback addresses for each workload (127.0.0.0/8) without set-up, signals that "+
		"end children with their parent (prctl PR_SET_PDEATHSIG), /proc, and locks and modes of state files that were tried there. "+
		"Use a Linux machine, virtual machine or container.\n", name, runtime.GOOS)
	return 1
}
