package compile

import (
	"errors"
	"strings"

	"github.com/signet-mesh/signet/mesh"
)

// Fault is why an authored object can't be run: the object, the path of the field and the reason.
type Fault struct {
	Key   mesh.Key
	Field string
	Cause error
}

// Error is KIND NAMESPACE/NAME: FIELD: reason.
func (f *Fault) Error() string { return f.Key.String() + ": " + f.Field + ": " + f.Cause.Error() }

// Unwrap gives the reason to errors.Is and errors.As.
func (f *Fault) Unwrap() error { return f.Cause }

// fieldError is a reason on its way up to the object: the path so far.
type fieldError struct {
	path  string
	cause error
}

func (e *fieldError) Error() string { return e.path + ": " + e.cause.Error() }

func (e *fieldError) Unwrap() error { return e.cause }

// below puts a field before the path of an error; nil stays nil.
func below(field string, err error) error {
	if err == nil {
		return nil
	}
	var inner *fieldError
	if !errors.As(err, &inner) {
		return &fieldError{field, err}
	}
	if strings.HasPrefix(inner.path, "[") {
		return &fieldError{field + inner.path, inner.cause}
	}
	return &fieldError{field + "." + inner.path, inner.cause}
}

// of makes the fault of an object, with the path that the error has gathered below field.
func of(m *mesh.Meta, field string, err error) error {
	if err == nil {
		return nil
	}
	err = below(field, err)
	var at *fieldError
	errors.As(err, &at)
	return &Fault{m.Key, at.path, at.cause}
}
