package compile

import (
	"errors"
	"fmt"
	"strconv"
)

// fail names the policy, where it stands and the field.
func (t *translator) fail(field string, cause error) error {
	where := ""
	if p := t.policy.Position; p.File != "" {
		where = p.File + ":" + strconv.Itoa(p.Line) + ": "
	}
	return fmt.Errorf("%scompiling AuthorizationPolicy %s/%s: %w", where, t.policy.Namespace, t.policy.Name, at(field, cause))
}

// Field is the path of the field that an error of Compile is about, and the reason; "" and the error itself if it names
// none.
func Field(err error) (string, error) {
	var f *fieldError
	if errors.As(err, &f) {
		return f.path, f.cause
	}
	return "", err
}

// fieldError is an error about a field.
type fieldError struct {
	path  string
	cause error
}

func (e *fieldError) Error() string { return e.path + ": " + e.cause.Error() }

func (e *fieldError) Unwrap() error { return e.cause }

// at puts a field's name before the path of an error.
func at(name string, err error) error {
	var inner *fieldError
	if errors.As(err, &inner) {
		return &fieldError{name + "." + inner.path, inner.cause}
	}
	return &fieldError{name, err}
}

// below is at for a member of a list's element; member may be empty.
func below(list string, i int, member string, err error) error {
	if member != "" {
		err = at(member, err)
	}
	return at(list+"["+strconv.Itoa(i)+"]", err)
}
