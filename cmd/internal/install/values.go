package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// rules is the part of values.schema.json that says what a value is to be.
type rules struct {
	Description string            `json:"description"`
	Properties  map[string]*rules `json:"properties"`
	Items       *rules            `json:"items"`
	// Additional is a schema, or false for none.
	Additional json.RawMessage `json:"additionalProperties"`
}

// at is the schema of a value that is one step below; nil where there is none of its own.
func (s *rules) at(step string) *rules {
	if below, ok := s.Properties[step]; ok {
		return below
	}
	if s.Items != nil {
		return s.Items
	}
	below := &rules{}
	if json.Unmarshal(s.Additional, below) != nil || below.Description == "" {
		return nil
	}
	return below
}

// refusal explains what the chart's schema refuses: Helm names the regular expression that a value does not match, this names
// the rule behind it and gives an example.
func refusal(c *chart.Chart, values map[string]any, err error) error {
	root := &rules{}
	all, merged := json.Unmarshal(c.Schema, root), chartutil.Values{}
	if all == nil {
		merged, all = chartutil.CoalesceValues(c, values)
	}
	if all != nil {
		return fmt.Errorf("judging values: %w", err)
	}
	var lines []error
	for _, found := range regexp.MustCompile(`(?m)^- at '([^']*)': (.*)$`).FindAllStringSubmatch(err.Error(), -1) {
		lines = append(lines, explainRefusal(root, merged, found[1], found[2]))
	}
	if len(lines) == 0 {
		return fmt.Errorf("judging values: %w", err)
	}
	return errors.Join(lines...)
}

// explainRefusal says what a value at a JSON pointer is to be; message is what a schema validator says of it.
func explainRefusal(s *rules, values any, pointer, message string) error {
	if v, ok := values.(chartutil.Values); ok {
		values = v.AsMap()
	}
	var name string
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if pointer == "" {
			break
		}
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch v := values.(type) {
		case map[string]any:
			values, name = v[step], strings.TrimPrefix(name+"."+step, ".")
		case []any:
			name += "[" + step + "]"
			if i, err := strconv.Atoi(step); err == nil && i < len(v) {
				values = v[i]
			}
		}
		if s != nil {
			s = s.at(step)
		}
	}
	if unknown, ok := strings.CutPrefix(message, "additional properties "); ok {
		unknown = strings.ReplaceAll(strings.TrimSuffix(unknown, " not allowed"), "'", "")
		return fmt.Errorf("%s: no such value; the chart's values.yaml lists those that there are", strings.TrimPrefix(name+"."+unknown, "."))
	}
	if s == nil || s.Description == "" {
		return fmt.Errorf("judging the value %s: %s", name, message)
	}
	return refused(name, values, s.Description)
}

// refused says what is wrong with a value.
func refused(name string, value any, want string) error {
	shown, err := json.Marshal(value)
	if err != nil {
		shown = []byte(fmt.Sprint(value))
	}
	return fmt.Errorf("judging the value %s: %s: want %s", name, shown, want)
}

// judgeValues judges what no schema can say.
func judgeValues(v chartutil.Values) error {
	var all []error
	for _, name := range []string{"resources", "injection.resources"} {
		if t, err := v.Table(name); err == nil {
			all = append(all, judgeResources(name, t))
		}
	}
	if t, err := v.Table("networkPolicy.egress"); err == nil {
		blocks, _ := t["apiServerBlocks"].([]any)
		for i, b := range blocks {
			if _, err := netip.ParsePrefix(fmt.Sprint(b)); err != nil {
				all = append(all, refused(fmt.Sprintf("networkPolicy.egress.apiServerBlocks[%d]", i), b, "a block of addresses, such as 10.0.0.0/8"))
			}
		}
	}
	if t, err := v.Table("nodeSelector"); err == nil {
		for _, key := range slices.Sorted(maps.Keys(t)) {
			if len(validation.IsQualifiedName(key))+len(validation.IsValidLabelValue(fmt.Sprint(t[key]))) > 0 {
				all = append(all, refused("nodeSelector", map[string]any{key: t[key]},
					"a label: letters, digits and inner -_. in name and value, at most 63, such as {kubernetes.io/os: linux}"))
			}
		}
	}
	return errors.Join(all...)
}

// judgeResources wants quantities, and no request over its limit.
func judgeResources(name string, t chartutil.Values) error {
	var all []error
	limits := map[string]quantity.Quantity{}
	for _, part := range []string{"limits", "requests"} {
		of, _ := t[part].(map[string]any)
		for _, what := range slices.Sorted(maps.Keys(of)) {
			value := name + "." + part + "." + what
			q, err := quantity.ParseQuantity(fmt.Sprint(of[what]))
			if err != nil || q.Sign() < 0 {
				all = append(all, refused(value, of[what], "a quantity, such as 100m or 256Mi"))
				continue
			}
			limit, limited := limits[what]
			switch {
			case part == "limits":
				limits[what] = q
			case limited && q.Cmp(limit) > 0:
				all = append(all, refused(value, of[what], fmt.Sprintf("no more than %s.limits.%s, which is %s", name, what, limit.String())))
			}
		}
	}
	return errors.Join(all...)
}
