package http1

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"github.com/signet-mesh/signet/proxy"
)

// lower maps the characters of a token (RFC 9110 section 5.6.2) to lower case and everything else to 0.
var lower = [256]byte{
	'!': '!', '#': '#', '$': '$', '%': '%', '&': '&', '\'': '\'', '*': '*', '+': '+', '-': '-', '.': '.', '^': '^', '_': '_',
	'`': '`', '|': '|', '~': '~',
	'0': '0', '1': '1', '2': '2', '3': '3', '4': '4', '5': '5', '6': '6', '7': '7', '8': '8', '9': '9',
	'A': 'a', 'B': 'b', 'C': 'c', 'D': 'd', 'E': 'e', 'F': 'f', 'G': 'g', 'H': 'h', 'I': 'i', 'J': 'j', 'K': 'k', 'L': 'l', 'M': 'm',
	'N': 'n', 'O': 'o', 'P': 'p', 'Q': 'q', 'R': 'r', 'S': 's', 'T': 't', 'U': 'u', 'V': 'v', 'W': 'w', 'X': 'x', 'Y': 'y', 'Z': 'z',
	'a': 'a', 'b': 'b', 'c': 'c', 'd': 'd', 'e': 'e', 'f': 'f', 'g': 'g', 'h': 'h', 'i': 'i', 'j': 'j', 'k': 'k', 'l': 'l', 'm': 'm',
	'n': 'n', 'o': 'o', 'p': 'p', 'q': 'q', 'r': 'r', 's': 's', 't': 't', 'u': 'u', 'v': 'v', 'w': 'w', 'x': 'x', 'y': 'y', 'z': 'z',
}

// str views bytes of an arena that nobody writes to any more.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// equalFold compares ASCII case-insensitively with a word in lower case, made of letters, digits and '-'.
func equalFold(s, word string) bool {
	if len(s) != len(word) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if lower[s[i]] != word[i] {
			return false
		}
	}
	return true
}

func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if lower[s[i]] == 0 {
			return false
		}
	}
	return s != ""
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// valueEnd is the length of the start of b that has only HTAB, SP, visible ASCII and obs-text (RFC 9110 section 5.5). It takes
// eight bytes at a time; the lowest mark of the two subtractions is exact, higher ones need not be.
func valueEnd(b []byte) int {
	i := 0
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		del := x ^ ones*0x7f
		marks := ((x-ones*0x20)&^x | (del-ones)&^del) & highs
		if marks == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(marks) / 8
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && (b[i] >= ' ' && b[i] != 0x7f || b[i] == '\t') {
		i++
	}
	return i
}

func isFieldValue(b []byte) bool { return valueEnd(b) == len(b) }

// isVisible reports whether b is visible ASCII without '#', which is what a request target may hold.
func isVisible(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func trimOWS(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// cut returns the first member of a comma-separated list, trimmed, and the rest.
func cut(list string) (member, rest string) {
	for i := 0; i < len(list); i++ {
		if list[i] == ',' {
			return trimOWS(list[:i]), list[i+1:]
		}
	}
	return trimOWS(list), ""
}

// fieldLine reads the field line at the start of b, which ends in LF, and lower-cases its name in place. n counts the line
// with its CRLF. under says that the name has an underscore.
func fieldLine(b []byte) (name, value string, n int, under bool, f *proxy.Failure) {
	i, seen := 0, byte(0)
	for ; i < len(b); i++ {
		c := lower[b[i]]
		if c == 0 {
			break
		}
		if c == '_' {
			seen = 1
		}
		b[i] = c
	}
	if i == 0 || i == len(b) || b[i] != ':' {
		return "", "", 0, false, badName(b, i)
	}
	end := i + 1 + valueEnd(b[i+1:])
	switch {
	case end+1 < len(b) && b[end] == '\r' && b[end+1] == '\n':
	case end < len(b) && b[end] == '\n':
		return "", "", 0, false, bad("bare_lf")
	default:
		return "", "", 0, false, badValue("control_in_value", "field "+string(b[:i]))
	}
	return str(b[:i]), trimOWS(str(b[i+1 : end])), end + 2, seen != 0, nil
}

// badName says what is wrong with a field line whose name stops at i.
func badName(b []byte, i int) *proxy.Failure {
	switch {
	case i == 0 && len(b) > 0 && (b[0] == ' ' || b[0] == '\t'):
		return bad("obs_fold")
	case i == 0:
		return bad("empty_field_name")
	case i < len(b) && (b[i] == ' ' || b[i] == '\t'):
		return badValue("space_before_colon", string(b[:i]))
	}
	return badValue("field_name", string(b[:i]))
}
