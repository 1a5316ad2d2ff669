package decisionlog

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// hidden stands for what is masked in any case.
const hidden = "***"

// Limits of hiding.
const (
	// minSecret is how many bytes a secret needs: a shorter one would be found in what has nothing to do with it.
	minSecret = 8
	// maxStarts is at how many places of one word a token is looked for.
	maxStarts = 16
)

// between are the bytes that end a word. A compact token (RFC 7515, section 7.1) has none of them, neither as such nor in a
// URL, where any of its bytes may be escaped.
const between = "?&=;,:/# \t\r\n\"'()<>[]{}|\\"

// hide answers s without its words that hold the secret or a token, or hidden if there are such and whole is set.
func hide(s, secret string, whole bool) string {
	var out strings.Builder
	copied := 0
	for at := 0; at < len(s); {
		end := len(s)
		if i := strings.IndexAny(s[at:], between); i >= 0 {
			end = at + i
		}
		if isSecret(s[at:end], secret) {
			if whole {
				return hidden
			}
			out.WriteString(s[copied:at])
			out.WriteString(hidden)
			copied = end
		}
		at = end + 1
	}
	if copied == 0 {
		return s
	}
	out.WriteString(s[copied:])
	return out.String()
}

// isSecret reports whether a word holds the secret or a token, escaped for a URL or not.
func isSecret(word, secret string) bool {
	if len(word) < minSecret {
		return false
	}
	word = unescaped(word)
	return len(secret) >= minSecret && strings.Contains(word, secret) || hasToken(word)
}

// unescaped decodes what escapes of URLs there are and leaves what is none.
func unescaped(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := digit(s[i+1]), digit(s[i+2])
			if high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func digit(c byte) int { return strings.IndexByte("0123456789abcdef", lower(c)) }

func lower(c byte) byte {
	if 'A' <= c && c <= 'F' {
		return c + 'a' - 'A'
	}
	return c
}

// hasToken reports whether a word holds a JWS or JWE in its compact form: three segments or more, the first of them a JSON
// object with alg. What stands before it, such as the prefix of a header, is passed over.
func hasToken(word string) bool {
	for starts := 0; starts < maxStarts; starts++ {
		i := strings.IndexByte(word, 'e') // as does the base64url of every text that begins with a brace
		if i < 0 {
			return false
		}
		word = word[i:]
		first, rest, found := strings.Cut(word, ".")
		if !found || !strings.Contains(rest, ".") {
			return false
		}
		if isHeader(first) {
			return true
		}
		word = word[1:]
	}
	return false
}

// isHeader reports whether a segment is the header of a token (RFC 7515, section 4.1.1).
func isHeader(segment string) bool {
	text, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		return false
	}
	var header map[string]json.RawMessage
	return json.Unmarshal(text, &header) == nil && header["alg"] != nil
}
