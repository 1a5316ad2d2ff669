package install

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/kube/inject"
	"github.com/signet-mesh/signet/mesh"
)

// judge reads the rendered settings as the control plane will: what it would refuse is refused before it is applied.
func (r *Rendered) judge() error {
	for _, o := range r.objects {
		if o.Kind != "ConfigMap" {
			continue
		}
		var m corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(o.text), &m); err != nil {
			return fmt.Errorf("reading rendered ConfigMap %q: %w", o.Metadata.Name, err)
		}
		if text, ok := m.Data[inject.ConfigKey]; ok {
			if _, err := inject.ParseConfig([]byte(text)); err != nil {
				return fmt.Errorf("judging the value injection: %w", err)
			}
		}
		if _, ok := m.Data["mesh"]; ok {
			_, problems := mesh.Parse("meshConfig", []byte(o.text), mesh.ParseOptions{RootNamespace: m.Namespace, TrustDomain: r.value("trustDomain")})
			var all []error
			for _, p := range mesh.Refusals(problems) {
				all = append(all, fmt.Errorf("judging the value meshConfig: %s: %s", p.Field, p.Message))
			}
			if len(all) > 0 {
				return errors.Join(all...)
			}
		}
	}
	return nil
}
