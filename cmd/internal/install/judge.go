package install

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/kube/inject"
	"github.com/signet-mesh/signet/mesh"
)

// judge reads the rendered objects as the API server will, and of those what the control plane reads as it will: what they
// would refuse is refused before it is applied.
func (r *Rendered) judge() error {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, o := range r.objects {
		if o.Kind == "CustomResourceDefinition" { // of no value
			continue
		}
		read, _, err := strict.Decode([]byte(o.text), nil, nil)
		if err != nil {
			return fmt.Errorf("judging values: the %s %q that they make: %w", o.Kind, o.Metadata.Name, err)
		}
		if err := r.judgeObject(read, o.text); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rendered) judgeObject(read runtime.Object, text string) error {
	switch o := read.(type) {
	case *corev1.ConfigMap:
		if injection, ok := o.Data[inject.ConfigKey]; ok {
			if _, err := inject.ParseConfig([]byte(injection)); err != nil {
				return fmt.Errorf("judging the value injection: %w", err)
			}
		}
		if _, ok := o.Data["mesh"]; ok {
			return r.judgeMesh(o.Namespace, text)
		}
	case *appsv1.Deployment:
		i := slices.IndexFunc(o.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == "signetd" })
		if i < 0 {
			return fmt.Errorf("reading rendered Deployment %q: it has no container signetd", o.Name)
		}
		return r.judgeArgs(o.Spec.Template.Spec.Containers[i].Args)
	}
	return nil
}

func (r *Rendered) judgeMesh(namespace, text string) error {
	var all []error
	_, problems := mesh.Parse("meshConfig", []byte(text), mesh.ParseOptions{RootNamespace: namespace, TrustDomain: r.value("trustDomain")})
	for _, p := range mesh.Refusals(problems) {
		all = append(all, fmt.Errorf("judging the value meshConfig: %s: %s", p.Field, p.Message))
	}
	return errors.Join(all...)
}

// valueFlags are the flags of the control plane that values set, each with its value.
func valueFlags() [][2]string {
	return [][2]string{{"--revision", "revision"}, {"--trust-domain", "trustDomain"}, {"--cluster-domain", "clusterDomain"},
		{"--root-namespace", "rootNamespace"}, {"--alone", "alone"}, {"--take-over", "takeOver"}, {"--token-review", "tokenReview"},
		{"--workload-cert-ttl", "workloadCertTTL"}, {"--max-workload-cert-ttl", "maxWorkloadCertTTL"}}
}

// judgeArgs reads the command line of the control plane by its own flags.
func (r *Rendered) judgeArgs(args []string) error {
	if extra, ok := r.values["extraArgs"].([]any); ok {
		if err := judgeExtra(extra); err != nil {
			return err
		}
	}
	var k cli.Kube
	flags := pflag.NewFlagSet("signetd", pflag.ContinueOnError)
	flags.Usage = func() {}
	k.Add(flags)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		err = errors.New("with --help signetd does nothing else")
	case err == nil && (flags.NArg() != 1 || flags.Arg(0) != "kube"):
		err = fmt.Errorf("%q: want flags only; a value stands behind its flag or is joined by =", flags.Args()[min(1, flags.NArg()):])
	case err == nil:
		err = k.Validate()
	}
	if err == nil {
		return nil
	}
	for _, f := range valueFlags() {
		if strings.Contains(err.Error(), f[0]+" ") || strings.Contains(err.Error(), f[0]+`"`) {
			return fmt.Errorf("judging the value %s: the control plane would refuse %w", f[1], err)
		}
	}
	return fmt.Errorf("judging the value extraArgs: the control plane would refuse it: %w\n'signetd kube --help' lists its flags", err)
}

// judgeExtra wants no flag that a value sets too, for other objects say the same, and no other ports than those that the Service
// and the probes lead to.
func judgeExtra(extra []any) error {
	for i, a := range extra {
		flag, _, _ := strings.Cut(fmt.Sprint(a), "=")
		for _, f := range valueFlags() {
			if flag == f[0] {
				return fmt.Errorf("judging the value extraArgs[%d]: %s is set by the value %s: set that instead", i, flag, f[1])
			}
		}
		if slices.Contains([]string{"--control-address", "--metrics-address", "--webhook-address"}, flag) {
			return fmt.Errorf("judging the value extraArgs[%d]: %s: the chart's Service and probes lead to the ports of the default; leave it out", i, flag)
		}
	}
	return nil
}
