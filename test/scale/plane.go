package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/signet-mesh/signet/kube"
)

// plane is a running signetd.
type plane struct {
	cmd            *exec.Cmd
	took           time.Duration
	control, roots string
	metrics        string
}

func startPlane(ctx context.Context, cfg *rest.Config, program, dir string) (*plane, error) {
	config := filepath.Join(dir, "kubeconfig")
	if err := writeKubeconfig(cfg, config); err != nil {
		return nil, err
	}
	began := time.Now()
	p := &plane{control: "127.0.0.1:25012", metrics: "127.0.0.1:25014", roots: filepath.Join(dir, "roots.pem")}
	p.cmd = exec.CommandContext(ctx, program, "kube", "--kubeconfig", config, "--control-address", p.control,
		"--metrics-address", p.metrics, "--webhook-address", "127.0.0.1:25017", "--alone")
	p.cmd.Env = append(os.Environ(), "POD_NAME=signetd-0", "POD_NAMESPACE="+kube.SystemNamespace)
	log, err := os.Create(filepath.Join(dir, "signetd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s (run 'make build' first): %w", program, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if err = p.ready(ctx, client); err == nil {
			p.took = time.Since(began)
			return p, nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			p.stop()
			said, _ := os.ReadFile(filepath.Join(dir, "signetd.log"))
			return nil, fmt.Errorf("waiting for signetd: %w\n%s", err, said)
		}
	}
}

// ready waits until signetd serves and has published its roots.
func (p *plane) ready(ctx context.Context, client kubernetes.Interface) error {
	r, err := http.Get("http://" + p.metrics + "/healthz/ready")
	if err != nil {
		return err
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New("signetd is not ready")
	}
	m, err := client.CoreV1().ConfigMaps("team-0").Get(ctx, kube.BundleConfigMap, meta.GetOptions{})
	if err != nil {
		return err
	}
	return os.WriteFile(p.roots, []byte(m.Data[kube.BundleKey]), 0o600)
}

func writeKubeconfig(cfg *rest.Config, file string) error {
	c := api.NewConfig()
	c.Clusters["k"] = &api.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	c.AuthInfos["u"] = &api.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}
	c.Contexts["c"] = &api.Context{Cluster: "k", AuthInfo: "u"}
	c.CurrentContext = "c"
	return clientcmd.WriteToFile(*c, file)
}

func (p *plane) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// cpu is the seconds of CPU that signetd has used.
func (p *plane) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}

// memory is signetd's resident set in MB.
func (p *plane) memory() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(v)[0])
			return kb / 1024
		}
	}
	return 0
}

// inSync is how many proxies run on what they were last sent, as signetd says.
func (p *plane) inSync() int {
	r, err := http.Get("http://" + p.metrics + "/status")
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	var said struct {
		Proxies []struct {
			InSync bool `json:"inSync"`
		} `json:"proxies"`
	}
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
		return 0
	}
	n := 0
	for _, one := range said.Proxies {
		if one.InSync {
			n++
		}
	}
	return n
}

// bytes is what signetd has pushed over ADS.
func (p *plane) bytes() float64 {
	r, err := http.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "signet_ads_push_bytes_total") {
			f := strings.Fields(lines.Text())
			v, _ := strconv.ParseFloat(f[len(f)-1], 64)
			sum += v
		}
	}
	return sum
}
