package dps

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

const (
	// hookTimeout is less than devices wait for an answer.
	hookTimeout = 20 * time.Second
	maxHookBody = 64 << 10
)

// allocationError tells that a web hook did not allow an assignment.
type allocationError struct{ error }

func (a allocationError) Unwrap() error { return a.error }

// runtimeContext is what the device has said and shown.
type runtimeContext struct {
	RegistrationID string          `json:"registrationId"`
	SymmetricKey   *struct{}       `json:"symmetricKey,omitempty"`
	X509           *runtimeX509    `json:"x509,omitempty"`
	TPM            *tpmKeys        `json:"tpm,omitempty"`
	Payload        json.RawMessage `json:"payload,omitempty"`
}

type runtimeX509 struct {
	ClientCertificate string `json:"clientCertificate"`
}

// decision is the answer of a web hook.
type decision struct {
	IoTHubHostName string          `json:"iotHubHostName"`
	InitialTwin    json.RawMessage `json:"initialTwin"`
	Payload        json.RawMessage `json:"payload"`
}

// allocate asks the web hook of an enrollment with custom allocation: whether the
// device may have this hub, with which twin, and what to tell it. Errors are
// allocationError.
func (d *Service) allocate(ctx context.Context, c claim, a *admission) (decision, error) {
	body, err := d.hookRequest(c, a)
	if err != nil {
		return decision{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	raw, err := d.callHook(ctx, a.enrollment.terms.Custom, body)
	if err != nil {
		// The error may hold the address, which may hold a secret.
		d.log.Warn("custom allocation failed", "enrollment", a.enrollment.id, "error", withoutURL(err))
		return decision{}, allocationError{errors.New("custom allocation failed")}
	}
	var out decision
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, allocationError{errors.New("custom allocation: the answer is not understood")}
	}
	if !strings.EqualFold(out.IoTHubHostName, d.o.HubName) {
		return out, allocationError{errors.New("custom allocation: the answer names a hub that is not linked")}
	}
	if isNull(out.InitialTwin) {
		out.InitialTwin = nil
	} else if _, err := twin.ParseChange(out.InitialTwin); err != nil {
		return out, allocationError{fmt.Errorf("custom allocation: initialTwin: %w", err)}
	}
	if isNull(out.Payload) {
		out.Payload = nil
	}
	return out, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || bytes.Equal(raw, []byte("null")) }

func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (d *Service) hookRequest(c claim, a *admission) ([]byte, error) {
	var in struct {
		Group      *rest.EnrollmentGroup `json:"enrollmentGroup,omitempty"`
		Individual *rest.Enrollment      `json:"individualEnrollment,omitempty"`
		Context    runtimeContext        `json:"deviceRuntimeContext"`
		LinkedHubs []string              `json:"linkedHubs"`
	}
	in.Context = runtimeContext{RegistrationID: c.id, TPM: a.tpm, Payload: c.request.Payload}
	in.LinkedHubs = []string{d.o.HubName}
	hidden := *a.enrollment // the hook has no use for keys
	if hidden.terms.Attestation.Type == rest.AttestKey {
		hidden.terms.Attestation.SymmetricKey = nil
		in.Context.SymmetricKey = &struct{}{}
	}
	if a.leaf != nil {
		in.Context.X509 = &runtimeX509{base64.StdEncoding.EncodeToString(a.leaf.Raw)}
	}
	if hidden.group {
		doc := hidden.groupDocument()
		in.Group = &doc
	} else {
		doc := hidden.individual()
		in.Individual = &doc
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode request of a web hook: %w", err)
	}
	return body, nil
}

func (d *Service) callHook(ctx context.Context, hook *rest.CustomAllocation, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.WebhookURL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := d.hooks.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxHookBody+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the web hook answered %d", resp.StatusCode)
	case len(raw) > maxHookBody:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxHookBody)
	}
	return raw, nil
}

// checkHook tells whether an enrollment with custom allocation says whom to ask.
func checkHook(c *rest.CustomAllocation) error {
	if c == nil {
		return invalid("custom allocation needs customAllocationDefinition")
	}
	u, err := url.Parse(c.WebhookURL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return invalid("webhookUrl is not an http or https address")
	}
	return nil
}
