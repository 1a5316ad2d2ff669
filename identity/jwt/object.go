package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects of a token's JSON may be nested, the outermost object included.
const MaxDepth = 32

var (
	errNotUTF8  = errors.New("reading JSON: not UTF-8")
	errTooDeep  = fmt.Errorf("reading JSON: nested deeper than %d", MaxDepth)
	errTrailing = errors.New("reading JSON: something follows the object")
)

// object reads one JSON object and nothing after it. Two members of one name are refused at every level: two readers may each
// take another one of them (RFC 7515 section 4, RFC 7519 section 4). Numbers stay as they were written.
func object(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errNotUTF8
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("reading JSON: not an object: %w", orSyntax(err))
	}
	out, err := members(d, 1)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	return out, nil
}

func orSyntax(err error) error {
	if err == nil {
		return errors.New("another value")
	}
	return err
}

// members reads an object after its opening brace.
func members(d *json.Decoder, depth int) (map[string]any, error) {
	out := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("reading JSON: %w", err)
		}
		name, _ := t.(string) // the decoder refuses names that are no strings
		if _, twice := out[name]; twice {
			return nil, errors.New("reading JSON: two members of one name")
		}
		if out[name], err = value(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return out, err
}

func elements(d *json.Decoder, depth int) ([]any, error) {
	out := []any{}
	for d.More() {
		v, err := value(d, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.Token()
	return out, err
}

func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	open, ok := t.(json.Delim)
	switch {
	case !ok:
		return t, nil
	case depth >= MaxDepth:
		return nil, errTooDeep
	case open == '{':
		return members(d, depth+1)
	}
	return elements(d, depth+1)
}
