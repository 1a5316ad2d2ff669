package telemetry

import "strings"

// hidden stands in the log for what must not be there.
const hidden = "***"

// withoutTokens is a query as the log may show it, with or without its '?': the value of access_token (RFC 6750 section 2.3)
// and what looks like a JSON Web Token (RFC 7519: it begins with an encoded '{' and has dots) is hidden, under whatever name
// a RequestAuthentication looks for it. It allocates only where there is one.
func withoutTokens(query string) string {
	if !strings.Contains(query, "=ey") && !strings.Contains(query, "access_token=") {
		return query
	}
	var out strings.Builder
	for i, part := range strings.Split(query, "&") {
		if i > 0 {
			out.WriteByte('&')
		}
		name, value, _ := strings.Cut(part, "=")
		if strings.TrimPrefix(name, "?") == "access_token" || strings.HasPrefix(value, "ey") && strings.Contains(value, ".") {
			part = name + "=" + hidden
		}
		out.WriteString(part)
	}
	return out.String()
}
