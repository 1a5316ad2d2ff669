package cli

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/identity"
)

// Directories completes one argument with the names of directories.
func Directories(_ *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(a) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// CheckTTL refuses lifetimes that the CA would refuse or that rotation can't keep up with.
func CheckTTL(d time.Duration) error {
	const least, most = 5 * time.Second, 90 * 24 * time.Hour
	if d != 0 && (d < least || d > most) {
		return mistake{fmt.Errorf("--workload-cert-ttl %s: want between %s and %s", d, least, most)}
	}
	return nil
}

// CheckMaxTTL refuses a bound on lifetimes that the CA would refuse, or that the one to ask for exceeds.
func CheckMaxTTL(most, ttl time.Duration) error {
	const least, limit = 5 * time.Second, 90 * 24 * time.Hour
	if most != 0 && (most < least || most > limit) {
		return mistake{fmt.Errorf("--max-workload-cert-ttl %s: want between %s and %s", most, least, limit)}
	}
	if most != 0 && ttl > most {
		return mistake{fmt.Errorf("--workload-cert-ttl %s is over --max-workload-cert-ttl %s", ttl, most)}
	}
	return nil
}

// CheckAddress refuses what can't be listened on whatever the machine.
func CheckAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return mistake{fmt.Errorf("%s %q: want ADDRESS:PORT", flag, address)}
	}
	return nil
}

// StateDir is the absolute path of the state directory, which the trust domain names where none is given.
func StateDir(given, trustDomain string) (string, error) {
	if _, err := identity.ControlPlane(trustDomain); err != nil {
		return "", mistake{fmt.Errorf("--trust-domain %q: want a SPIFFE trust domain such as cluster.local: %w", trustDomain, err)}
	}
	if strings.Trim(trustDomain, ".") == "" && given == "" {
		return "", mistake{fmt.Errorf("--trust-domain %q can't name a directory: give --state", trustDomain)}
	}
	if given != "" {
		return filepath.Abs(given)
	}
	home, err := StateHome()
	if err != nil {
		return "", mistake{err}
	}
	return filepath.Join(home, trustDomain), nil
}
