package extauthz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/authz"
)

// headersToRemove is the field by which an authorizer over HTTP names headers of the request to remove. It goes nowhere.
const headersToRemove = "x-envoy-auth-headers-to-remove"

// read reads an answer: 200 allows, 5xx and what is no final status are failures, anything else denies.
func (h *overHTTP) read(ctx context.Context, response *http.Response) (authz.Answer, *fault) {
	switch code := response.StatusCode; {
	case code < 200 || code > 599:
		return authz.Answer{}, failure(errMalformed)
	case code >= 500:
		drain(response.Body)
		return authz.Answer{}, failure(fmt.Errorf("it answered %d", code))
	case code == http.StatusOK:
		if err := drain(response.Body); err != nil {
			return authz.Answer{}, failure(plainly(ctx, err))
		}
		a, err := h.approve(response.Header)
		if err != nil {
			return authz.Answer{}, misanswered(err)
		}
		return a, nil
	}
	a, err := h.deny(response)
	if err != nil {
		return authz.Answer{}, misanswered(err)
	}
	return a, nil
}

// drain reads a body that nobody needs, so that the connection can be used again; a long one ends it.
func drain(body io.Reader) error {
	_, err := io.CopyN(io.Discard, body, MaxDenialBody)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (h *overHTTP) approve(fields http.Header) (a authz.Answer, err error) {
	a.Allowed = true
	if a.Upstream, err = selected(fields, h.onAllow, false, authz.SetHeader); err != nil {
		return authz.Answer{}, fmt.Errorf("headersToUpstreamOnAllow: %w", err)
	}
	if a.Client, err = selected(fields, h.allowBack, false, authz.SetHeader); err != nil {
		return authz.Answer{}, fmt.Errorf("headersToDownstreamOnAllow: %w", err)
	}
	var names []string
	for _, list := range fields.Values(headersToRemove) {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, name)
			}
		}
	}
	removed, err := removals(names)
	if err != nil {
		return authz.Answer{}, fmt.Errorf("%s: %w", headersToRemove, err)
	}
	a.Upstream = append(a.Upstream, removed...)
	return a, nil
}

// deny keeps to the status: an answer that says no and then breaks off does not become a failure that may open.
func (h *overHTTP) deny(response *http.Response) (a authz.Answer, err error) {
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxDenialBody+1))
	switch {
	case err != nil:
		return authz.Answer{}, fmt.Errorf("the body of a denial: %w", errEnded)
	case len(body) > MaxDenialBody:
		return authz.Answer{}, fmt.Errorf("the body of a denial has more than %d bytes", MaxDenialBody)
	}
	a.Status, a.Body = response.StatusCode, string(body)
	if a.Client, err = selected(response.Header, h.denyBack, len(h.denyBack) == 0, authz.SetHeader); err != nil {
		return authz.Answer{}, fmt.Errorf("headersToDownstreamOnDeny: %w", err)
	}
	return a, nil
}

// selected are the fields of an answer that patterns name, or all, sorted by name. Those of the authorizer's own connection
// never are, and neither is Date. The first field of a name is set, further ones are appended.
func selected(fields http.Header, list []pattern, all bool, first authz.HeaderOp) ([]authz.HeaderEdit, error) {
	var named []string
	for _, v := range fields.Values("Connection") {
		for name := range strings.SplitSeq(v, ",") {
			named = append(named, strings.ToLower(strings.TrimSpace(name)))
		}
	}
	var out []authz.HeaderEdit
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		name := strings.ToLower(key)
		if hop(name) || name == "date" || name == headersToRemove || slices.Contains(named, name) || !all && !matches(list, name) {
			continue
		}
		op := first
		for _, value := range fields[key] {
			e, err := authz.NewHeaderEdit(op, name, value)
			if err != nil {
				return nil, err
			}
			if len(out) == MaxEdits {
				return nil, fmt.Errorf("more than %d headers", MaxEdits)
			}
			out = append(out, e)
			op = authz.AppendHeader
		}
	}
	return out, nil
}
