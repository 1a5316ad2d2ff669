package e2e

import (
	"os"
	"os/exec"
	"testing"
)

// TestElsewhere: on other systems the executables build, and say what is missing (cmd/internal/elsewhere).
func TestElsewhere(t *testing.T) {
	t.Parallel()
	for _, system := range []string{"darwin", "windows"} {
		cmd := exec.Command("go", "build", "-o", os.DevNull, "../../cmd/signet")
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("building for %s: %v\n%s", system, err, out)
		}
	}
}
