package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/signet-mesh/signet/identity/turn"
)

// judge answers one request of the API server.
type judge func(context.Context, *admission.AdmissionRequest) *admission.AdmissionResponse

// door reads an AdmissionReview, has it answered, and writes the answer. What is no review gets an HTTP error, which the API
// server treats by failurePolicy. Nobody has proven to be the API server: the body is read before anything else is taken, in a
// time and share of its own, and turns go round the addresses that ask.
func (s *Server) door(answer judge) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		who := turn.Source(r.RemoteAddr)
		body, status, err := s.read(w, r, who)
		defer s.bytes.Give(who, len(body))
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		t := &turns{queue: s.queue, who: who}
		if err := t.enter(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer func() { t.leave() }() // it may be another turn by then
		review, err := parseReview(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := answer(context.WithValue(ctx, turnsKey{}, t), review.Request)
		response.UID = review.Request.UID
		out, err := json.Marshal(&admission.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
		if err != nil {
			http.Error(w, fmt.Sprintf("writing the answer: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out)
	})
}

// turns are the turn of one request, which may be left for a while.
type turns struct {
	queue *turn.Queue
	who   string
	leave func()
}

type turnsKey struct{}

func (t *turns) enter(ctx context.Context) (err error) {
	leave, err := t.queue.Enter(ctx, t.who)
	if err != nil {
		t.leave = func() {}
		return fmt.Errorf("waiting for a turn: %w", err)
	}
	t.leave = leave
	return nil
}

// aside waits without the turn of the request that ctx is of.
func aside[T any](ctx context.Context, wait func() (T, error)) (T, error) {
	t, ok := ctx.Value(turnsKey{}).(*turns)
	if !ok {
		return wait()
	}
	t.leave()
	out, err := wait()
	if again := t.enter(ctx); err == nil {
		err = again
	}
	return out, err
}

// chunkBytes is how much of a body is read at a time.
const chunkBytes = 16 << 10

// read is the body. Its bytes are taken from who's share as they come, and are to be given back, also when it fails.
func (s *Server) read(w http.ResponseWriter, r *http.Request, who string) (body []byte, status int, err error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content type %q: want application/json", r.Header.Get("Content-Type"))
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, http.StatusInternalServerError, fmt.Errorf("setting a deadline: %w", err)
	}
	for {
		if !s.bytes.Take(who, chunkBytes) {
			return body, http.StatusServiceUnavailable, fmt.Errorf("too many bytes of reviews are held for %s or in all, try again later", who)
		}
		body = slices.Grow(body, chunkBytes)
		n, err := io.ReadFull(r.Body, body[len(body):len(body)+chunkBytes])
		body = body[:len(body)+n]
		s.bytes.Give(who, chunkBytes-n)
		switch {
		case len(body) > MaxBodyBytes:
			return body, http.StatusRequestEntityTooLarge, fmt.Errorf("the review has more than %d bytes", MaxBodyBytes)
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return body, 0, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return body, http.StatusRequestTimeout, fmt.Errorf("the review did not arrive within %v", readTimeout)
		case err != nil:
			return body, http.StatusBadRequest, fmt.Errorf("reading the review: %w", err)
		}
	}
}

func parseReview(body []byte) (*admission.AdmissionReview, error) {
	review := &admission.AdmissionReview{}
	if err := json.Unmarshal(body, review); err != nil {
		return nil, fmt.Errorf("reading the review: %w", err)
	}
	if review.APIVersion != admission.SchemeGroupVersion.String() || review.Kind != "AdmissionReview" || review.Request == nil {
		return nil, fmt.Errorf("found %q %q: want an AdmissionReview of admission.k8s.io/v1 with a request", review.APIVersion, review.Kind)
	}
	return review, nil
}

func allow(warnings ...string) *admission.AdmissionResponse {
	return &admission.AdmissionResponse{Allowed: true, Warnings: clipWarnings(warnings)}
}

func refuse(code int32, reason metav1.StatusReason, message string, warnings ...string) *admission.AdmissionResponse {
	return &admission.AdmissionResponse{Warnings: clipWarnings(warnings),
		Result: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// maxWarnings and maxWarningBytes keep within what the API server passes on to a client.
const (
	maxWarnings     = 16
	maxWarningBytes = 240
)

func clipWarnings(warnings []string) []string {
	if len(warnings) > maxWarnings {
		rest := len(warnings) - maxWarnings + 1
		warnings = append(warnings[:maxWarnings-1:maxWarnings-1], fmt.Sprintf("and %d more: 'signet validate' shows them", rest))
	}
	out := make([]string, 0, len(warnings))
	for _, w := range warnings {
		if len(w) > maxWarningBytes {
			w = strings.ToValidUTF8(w[:maxWarningBytes-3], "") + "..."
		}
		out = append(out, w)
	}
	return out
}
