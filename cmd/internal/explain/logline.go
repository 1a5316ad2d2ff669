package explain

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Limits on recorded traffic.
const (
	// MaxLogLine is the longest line of an access log in bytes; a longer one is counted and passed over.
	MaxLogLine = 1 << 20
	// MaxShapes is how many different requests are told apart (caller, server, method, path, host); further ones are
	// counted and not judged.
	MaxShapes = 1_000_000
)

// logLine is one line of an access log: the members that Istio's default JSON format and ours share, and ours. What is
// absent, null or "-" is "".
type logLine struct {
	Workload        text `json:"workload"` // NAMESPACE.NAME; ours alone
	SourcePrincipal text `json:"source_principal"`
	DeniedBy        text `json:"denied_by"`

	Method           text `json:"method"`
	Path             text `json:"path"`
	Protocol         text `json:"protocol"`
	Status           text `json:"response_code"`
	Flags            text `json:"response_flags"`
	Details          text `json:"response_code_details"`
	Termination      text `json:"connection_termination_details"`
	ForwardedFor     text `json:"x_forwarded_for"`
	UserAgent        text `json:"user_agent"`
	Authority        text `json:"authority"`
	UpstreamHost     text `json:"upstream_host"`
	UpstreamCluster  text `json:"upstream_cluster"`
	DownstreamLocal  text `json:"downstream_local_address"`
	DownstreamRemote text `json:"downstream_remote_address"`
	SNI              text `json:"requested_server_name"`
	Start            text `json:"start_time"`
}

// text is a string or a number of JSON.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	switch {
	case len(b) > 0 && b[0] == '"':
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	case bytes.Equal(b, []byte("null")), len(b) > 0 && (b[0] == '{' || b[0] == '['):
	default:
		s = string(b)
	}
	if s == "-" {
		s = ""
	}
	*t = text(s)
	return nil
}

// cut reports whether the log cut the value (ours end in "..." beyond its limit).
func (t text) cut(limit int) bool { return len(t) >= limit+3 && strings.HasSuffix(string(t), "...") }

// Where our access log cuts values (docs/limits.md).
const (
	loggedPath  = 2048
	loggedValue = 256
)

// readLog reads a file of access log lines, "-" for in; what begins as gzip is decompressed. each gets what could be read
// of a line, nil for a line that is not JSON.
func readLog(path string, in io.Reader, each func(*logLine) error) error {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	r := bufio.NewReaderSize(in, 64<<10)
	if magic, err := r.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		defer z.Close()
		r = bufio.NewReaderSize(z, 64<<10)
	}
	for {
		b, err := nextLine(r)
		if len(bytes.TrimSpace(b)) > 0 {
			if err := each(parseLine(b)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
}

// nextLine reads to the next line break; of a line beyond MaxLogLine only its beginning, which is no JSON then.
func nextLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		b, err := r.ReadSlice('\n')
		if len(out) <= MaxLogLine {
			out = append(out, b...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return out, err
	}
}

// parseLine reads a line, also with something before its JSON (the name of a container, a time). nil is no JSON object.
func parseLine(b []byte) *logLine {
	if len(b) > MaxLogLine {
		return nil
	}
	at := bytes.IndexByte(b, '{')
	if at < 0 {
		return nil
	}
	l := &logLine{}
	if err := json.Unmarshal(b[at:], l); err != nil {
		return nil
	}
	return l
}

// isExchange reports whether the line is of an access log at all, and not something else in JSON.
func (l *logLine) isExchange() bool {
	return l.DownstreamLocal != "" || l.UpstreamCluster != "" || l.Workload != "" && l.Method != ""
}

// side is which corridor a line is of.
func (l *logLine) inbound() bool {
	switch {
	case strings.HasPrefix(string(l.UpstreamCluster), "inbound|"):
		return true
	case l.UpstreamCluster != "":
		return false
	case l.DeniedBy != "" || strings.HasPrefix(string(l.Details), "rbac_access_denied") || strings.HasPrefix(string(l.Details), "ext_authz_"),
		strings.HasPrefix(string(l.Details), "jwt_authn_"), strings.HasPrefix(string(l.Termination), "rbac_access_denied"):
		return true
	}
	return l.SourcePrincipal != "" || strings.HasPrefix(string(l.SNI), "outbound_")
}

// port is the one of the server that was called.
func (l *logLine) port() uint16 {
	if rest, ok := strings.CutPrefix(string(l.UpstreamCluster), "inbound|"); ok {
		number, _, _ := strings.Cut(rest, "|")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			return uint16(n)
		}
	}
	_, port := splitAddress(l.DownstreamLocal)
	return port
}

func splitAddress(t text) (host string, port uint16) {
	i := strings.LastIndexByte(string(t), ':')
	if i < 0 {
		return "", 0
	}
	n, err := strconv.ParseUint(string(t[i+1:]), 10, 16)
	if err != nil {
		return "", 0
	}
	return strings.Trim(string(t[:i]), "[]"), uint16(n)
}

// recorded is what was decided when the line was written.
func (l *logLine) recorded() outcome {
	details := string(l.Details)
	if details == "" {
		details = string(l.Termination)
	}
	switch {
	case l.Flags == "RL" || strings.HasPrefix(string(l.DeniedBy), "RateLimitPolicy/"):
		return outcome{decision: Allow} // limits come after policies
	case l.DeniedBy != "":
		return outcome{decision: Deny, by: string(l.DeniedBy)}
	case strings.HasPrefix(details, "rbac_access_denied"):
		return outcome{decision: Deny, by: deniedBy(details)}
	case strings.HasPrefix(details, "ext_authz_"):
		return outcome{decision: Deny, by: "ExtensionProvider"}
	case strings.HasPrefix(details, "jwt_authn_"):
		return outcome{decision: Deny, by: "RequestAuthentication"}
	case l.Status == "403" && details == "" && l.UpstreamHost == "":
		return outcome{decision: Deny, by: "unknown"}
	case l.UpstreamHost == "" && l.UpstreamCluster == "" && l.Status != "" && l.Status != "0" && strings.Contains(string(l.Flags), "DPE"):
		return outcome{decision: Unknown, why: "the request could not be read"}
	}
	return outcome{decision: Allow}
}

// deniedBy turns rbac_access_denied_matched_policy[ns[NS]-policy[NAME]-rule[N]] into KIND/NAMESPACE/NAME[RULE].
func deniedBy(details string) string {
	none := Ref{Kind: "AuthorizationPolicy", Name: "none", Rule: -1}.String()
	_, rest, ok := strings.Cut(details, "ns[")
	if !ok {
		return none
	}
	ns, rest, ok1 := strings.Cut(rest, "]-policy[")
	name, rest, ok2 := strings.Cut(rest, "]-rule[")
	rule, _, _ := strings.Cut(rest, "]")
	n, err := strconv.Atoi(rule)
	if !ok1 || !ok2 || err != nil {
		return none
	}
	return Ref{"AuthorizationPolicy", ns, name, n}.String()
}
