package route

import (
	"fmt"
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// HeaderOps are the header operations of a route or of one destination (Istio's Headers).
type HeaderOps struct{ Request, Response Ops }

// Ops are the operations on one head: first Remove, then Add, then Set. Names are lower case.
type Ops struct {
	Set, Add []proxy.Field
	Remove   []string
	// Authority replaces the request's authority: Istio's meaning of setting "host" or ":authority". "" leaves it.
	Authority string
}

// IsZero reports whether nothing is to be done.
func (o *Ops) IsZero() bool {
	return len(o.Set) == 0 && len(o.Add) == 0 && len(o.Remove) == 0 && o.Authority == ""
}

// ApplyRequest changes a request head.
func (o *HeaderOps) ApplyRequest(h *proxy.Head) {
	o.Request.apply(h)
	if o.Request.Authority != "" {
		h.Authority = o.Request.Authority
	}
}

// ApplyResponse changes a response head.
func (o *HeaderOps) ApplyResponse(h *proxy.Head) { o.Response.apply(h) }

func (o *Ops) apply(h *proxy.Head) {
	for _, name := range o.Remove {
		h.Del(name)
	}
	for _, f := range o.Add {
		h.Add(f.Name, f.Value)
	}
	for _, f := range o.Set {
		h.Set(f.Name, f.Value)
	}
}

// SetField adds a set operation; "host" and ":authority" of a request replace its authority.
func (o *Ops) SetField(name, value string, request bool) error {
	name = strings.ToLower(name)
	v, err := headerValue(name, value)
	if err != nil {
		return err
	}
	if request && (name == "host" || name == ":authority") {
		if v == "" {
			return fmt.Errorf("header %q may not be set to nothing", name)
		}
		o.Authority = v
		return nil
	}
	if err := checkOperand(name); err != nil {
		return err
	}
	o.Set = append(o.Set, proxy.Field{Name: name, Value: v})
	return nil
}

// AddField adds an append operation.
func (o *Ops) AddField(name, value string) error {
	name = strings.ToLower(name)
	v, err := headerValue(name, value)
	if err != nil {
		return err
	}
	if err := checkOperand(name); err != nil {
		return err
	}
	o.Add = append(o.Add, proxy.Field{Name: name, Value: v})
	return nil
}

// RemoveField adds a removal.
func (o *Ops) RemoveField(name string) error {
	name = strings.ToLower(name)
	if err := checkOperand(name); err != nil {
		return err
	}
	o.Remove = append(o.Remove, name)
	return nil
}

// checkOperand refuses names that an operation may not touch: they frame the message or belong to one hop.
func checkOperand(name string) error {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "trailer", "te", "upgrade", "expect",
		"content-length", "host", "proxy-authorization", "proxy-authenticate":
		return fmt.Errorf("header %q can't be changed by a route: it frames the message or belongs to one hop", name)
	}
	if !validName(name) {
		return fmt.Errorf("header %q is not a header name that a route can change", name)
	}
	return nil
}

func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return name != ""
}

// headerValue checks a value (RFC 9110 section 5.5) and takes Envoy's %% for a percent sign; Envoy's %COMMAND% is refused.
func headerValue(name, v string) (string, error) {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return "", fmt.Errorf("value %q of header %q contains the control character %q", v, name, c)
		}
	}
	v = strings.Trim(v, " \t")
	if !strings.Contains(v, "%") {
		return v, nil
	}
	if bare := strings.ReplaceAll(v, "%%", ""); strings.Contains(bare, "%") {
		return "", fmt.Errorf("value %q of header %q: Envoy's %%COMMAND%% is not supported (write %%%% for a percent sign)", v, name)
	}
	return strings.ReplaceAll(v, "%%", "%"), nil
}
