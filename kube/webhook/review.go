package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// judge answers one request of the API server.
type judge func(context.Context, *admission.AdmissionRequest) *admission.AdmissionResponse

// door reads an AdmissionReview, has it answered, and writes the answer. What is no review gets an HTTP error, which the API
// server treats by failurePolicy.
func (s *Server) door(answer judge) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			http.Error(w, errBusy.Error(), http.StatusServiceUnavailable)
			return
		}
		review, status, err := readReview(w, r)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		response := answer(ctx, review.Request)
		response.UID = review.Request.UID
		body, err := json.Marshal(&admission.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
		if err != nil {
			http.Error(w, fmt.Sprintf("writing the answer: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
}

func readReview(w http.ResponseWriter, r *http.Request) (*admission.AdmissionReview, int, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content type %q: want application/json", r.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBodyBytes))
	if err != nil {
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the review has more than %d bytes", MaxBodyBytes)
		}
		return nil, http.StatusBadRequest, fmt.Errorf("reading the review: %w", err)
	}
	review := &admission.AdmissionReview{}
	if err := json.Unmarshal(body, review); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("reading the review: %w", err)
	}
	if review.APIVersion != admission.SchemeGroupVersion.String() || review.Kind != "AdmissionReview" || review.Request == nil {
		return nil, http.StatusBadRequest, fmt.Errorf("found %q %q: want an AdmissionReview of admission.k8s.io/v1 with a request", review.APIVersion, review.Kind)
	}
	return review, 0, nil
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
