// Package kubetest gives tests a real API server: etcd and kube-apiserver, built from their Go modules by test/cluster, started
// by controller-runtime's envtest once for each test program.
package kubetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Main runs the tests of a package with an API server beside them and exits. ready is given the administrator's
// configuration before the first test. CustomResourceDefinitions in the folders crds (relative to the repository's root) are
// installed.
func Main(m *testing.M, ready func(*rest.Config), crds ...string) {
	code, err := run(m, ready, crds)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubetest:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M, ready func(*rest.Config), crds []string) (code int, err error) {
	cfg, stop, err := Start(crds...)
	if err != nil {
		return 1, err
	}
	defer func() {
		if stopped := stop(); err == nil {
			err = stopped
		}
	}()
	ready(cfg)
	return m.Run(), nil
}

// Start is Main's API server for a program that is no test; stop ends it.
func Start(crds ...string) (cfg *rest.Config, stop func() error, err error) {
	root, err := Root()
	if err != nil {
		return nil, nil, err
	}
	assets, err := assets(root)
	if err != nil {
		return nil, nil, err
	}
	env := &envtest.Environment{BinaryAssetsDirectory: assets, ErrorIfCRDPathMissing: true}
	for _, c := range crds {
		env.CRDDirectoryPaths = append(env.CRDDirectoryPaths, filepath.Join(root, c))
	}
	args := env.ControlPlane.GetAPIServer().Configure()
	args.Set("feature-gates", "ClusterTrustBundle=true", "ClusterTrustBundleProjection=true")
	args.Set("runtime-config", "certificates.k8s.io/v1beta1/clustertrustbundles=true")
	args.Set("authorization-mode", "RBAC")
	args.Set("service-cluster-ip-range", "10.96.0.0/16")
	if cfg, err = env.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting etcd and kube-apiserver: %w", err)
	}
	cfg.QPS, cfg.Burst = 1000, 2000
	return cfg, env.Stop, nil
}

// assets is the folder of the binaries: SIGNET_TEST_KUBE, else what test/cluster builds.
func assets(root string) (string, error) {
	if dir := os.Getenv("SIGNET_TEST_KUBE"); dir != "" {
		return dir, nil
	}
	build := exec.Command(filepath.Join(root, "test/cluster/node/build.sh"), "envtest")
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		return "", fmt.Errorf("building etcd and kube-apiserver: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Root is the repository's root.
func Root() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", fmt.Errorf("finding the repository: built with -trimpath")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file))), nil
}
