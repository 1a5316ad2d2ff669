package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	_ "istio.io/api/annotation" // keeps in go.mod the module whose YAML is read
)

// honoured are Istio's kinds that Signet reads, with the column that says most about an object. Kinds that are not honoured are
// not installed: an object that does nothing would be taken for one that does.
func honoured() map[string][]apiextensions.CustomResourceColumnDefinition {
	column := func(name, path string) apiextensions.CustomResourceColumnDefinition {
		return apiextensions.CustomResourceColumnDefinition{Name: name, Type: "string", JSONPath: path}
	}
	return map[string][]apiextensions.CustomResourceColumnDefinition{
		"authorizationpolicies.security.istio.io":  {column("Action", ".spec.action"), column("Provider", ".spec.provider.name")},
		"peerauthentications.security.istio.io":    {column("Mode", ".spec.mtls.mode")},
		"requestauthentications.security.istio.io": {column("Issuers", ".spec.jwtRules[*].issuer")},
		"virtualservices.networking.istio.io":      {column("Gateways", ".spec.gateways"), column("Hosts", ".spec.hosts")},
		"destinationrules.networking.istio.io":     {column("Host", ".spec.host")},
		"serviceentries.networking.istio.io":       {column("Hosts", ".spec.hosts"), column("Location", ".spec.location"), column("Resolution", ".spec.resolution")},
		"workloadentries.networking.istio.io":      {column("Address", ".spec.address"), column("Account", ".spec.serviceAccount")},
		"sidecars.networking.istio.io":             {column("Selector", ".spec.workloadSelector.labels")},
	}
}

// conditions are the columns that every kind has: what became of the object.
func conditions() []apiextensions.CustomResourceColumnDefinition {
	column := func(name, kind, part string, priority int32) apiextensions.CustomResourceColumnDefinition {
		return apiextensions.CustomResourceColumnDefinition{Name: name, Type: "string", Priority: priority,
			JSONPath: fmt.Sprintf(`.status.conditions[?(@.type=="%s")].%s`, kind, part)}
	}
	return []apiextensions.CustomResourceColumnDefinition{
		column("Accepted", "Accepted", "status", 0),
		column("Programmed", "Programmed", "status", 0),
		column("Reason", "Accepted", "message", 1),
		column("Proxies", "Programmed", "message", 1),
		{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"},
	}
}

// istio is Istio's definitions out of the pinned module, one file for each honoured kind.
func istio(ctx context.Context) (map[string][]byte, error) {
	dir, err := run(ctx, ".", "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api")
	if err != nil {
		return nil, err
	}
	version, err := run(ctx, ".", "go", "list", "-m", "-f", "{{.Version}}", "istio.io/api")
	if err != nil {
		return nil, err
	}
	all, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "kubernetes/customresourcedefinitions.gen.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading Istio's CustomResourceDefinitions: %w", err)
	}
	head := fmt.Sprintf("# Made by 'make manifests' out of istio.io/api %s (Apache License 2.0, Istio Authors), with labels and columns of Signet.\n",
		strings.TrimSpace(string(version)))
	kinds, files := honoured(), map[string][]byte{}
	for _, doc := range bytes.Split(all, []byte("\n---\n")) {
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(doc, &crd); err != nil {
			return nil, fmt.Errorf("reading Istio's CustomResourceDefinitions: %w", err)
		}
		columns, ok := kinds[crd.Name]
		if !ok {
			continue
		}
		delete(kinds, crd.Name)
		for i := range crd.Spec.Versions {
			crd.Spec.Versions[i].AdditionalPrinterColumns = slices.Concat(columns, conditions())
		}
		if files[crd.Name+".yaml"], err = encode(head, &crd); err != nil {
			return nil, err
		}
	}
	if len(kinds) > 0 {
		return nil, fmt.Errorf("reading Istio's CustomResourceDefinitions: %v are not in istio.io/api", kinds)
	}
	return files, nil
}

// ours is made by controller-gen of policy/v1alpha1.
func ours(ctx context.Context) (map[string][]byte, error) {
	all, err := run(ctx, ".", "go", "tool", "controller-gen", "crd", "paths=./policy/...", "output:crd:stdout")
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, doc := range bytes.Split(all, []byte("---\n")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(doc, &crd); err != nil {
			return nil, fmt.Errorf("reading what controller-gen made: %w", err)
		}
		const head = "# Made by 'make manifests' of deploy/manifests/policy/v1alpha1.\n"
		if files[crd.Name+".yaml"], err = encode(head, &crd); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// encode writes a definition that is labelled as ours: 'signet install' leaves others alone, and 'signet uninstall' as well.
func encode(head string, crd *apiextensions.CustomResourceDefinition) ([]byte, error) {
	labels := map[string]string{"app.kubernetes.io/managed-by": "signet", "app.kubernetes.io/part-of": "signet"}
	if v, ok := crd.Labels["gateway.networking.k8s.io/policy"]; ok {
		labels["gateway.networking.k8s.io/policy"] = v
	}
	crd.Labels = labels
	delete(crd.Annotations, "helm.sh/resource-policy")
	text, err := yaml.Marshal(crd)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", crd.Name, err)
	}
	// status is the API server's; the Go type has it always.
	body, _, _ := bytes.Cut(text, []byte("\nstatus:\n  acceptedNames:"))
	return append([]byte(head), append(bytes.ReplaceAll(body, []byte("  creationTimestamp: null\n"), nil), '\n')...), nil
}
