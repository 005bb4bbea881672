package dps

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/httpjson"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

const (
	// maxBody holds a bulk request of ten enrollments with certificates.
	maxBody     = 1 << 20
	bodyTimeout = 30 * time.Second
	// retryAfter is when a device shall ask for the result of its registration.
	retryAfter = 3 * time.Second
)

var versionPattern = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-[A-Za-z]+)?$`)

// Handler serves the paths of the provisioning service, for whatever host name, and
// leaves all others to next.
func (d *Service) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := httpjson.Segments(r.URL)
		if !ok || !owns(path) {
			next.ServeHTTP(w, r)
			return
		}
		if err := d.serve(w, r, path); err != nil {
			d.fail(w, r, err)
		}
	})
}

// owns tells whether a path is one of this service. Those of devices begin with an
// id scope; the hub itself has free words in second place only behind a few.
func owns(path []string) bool {
	first := strings.ToLower(path[0])
	switch first {
	case "enrollments", "enrollmentgroups", "registrations":
		return true
	case "devices", "twins", "certificates", "configurations", "jobs", "digitaltwins":
		return false
	}
	return len(path) >= 3 && strings.EqualFold(path[1], "registrations")
}

func (d *Service) serve(w http.ResponseWriter, r *http.Request, path []string) error {
	if !versionPattern.MatchString(r.URL.Query().Get("api-version")) {
		return invalid("api-version is missing or is not a date")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // not all writers can
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if len(path) >= 3 && strings.EqualFold(path[1], "registrations") {
		return d.serveDevice(w, r, path, body)
	}
	return d.serveOperator(w, r, path, body)
}

// serveDevice answers a device.
func (d *Service) serveDevice(w http.ResponseWriter, r *http.Request, path []string, body []byte) error {
	c := claim{scope: path[0], id: path[2], token: r.Header.Get("Authorization")}
	if r.TLS != nil {
		c.peer = r.TLS.PeerCertificates
	}
	var err error
	if c.request, err = parseRegistration(c.id, body); err != nil {
		return err
	}
	operation, want := "", http.MethodPost
	switch {
	case len(path) == 3:
	case len(path) == 4 && strings.EqualFold(path[3], "register"):
		want = http.MethodPut
	case len(path) == 5 && strings.EqualFold(path[3], "operations"):
		operation, want = path[4], http.MethodGet
	default:
		return refuse(codeNotFound, "the path is unknown")
	}
	if r.Method != want {
		return errMethod()
	}
	switch want {
	case http.MethodPost:
		state, err := d.lookUp(c)
		if err != nil {
			return err
		}
		httpjson.Write(w, http.StatusOK, state)
		return nil
	case http.MethodPut:
		op, err := d.register(r.Context(), c)
		if err != nil {
			return err
		}
		writeOperation(w, op)
		return nil
	}
	op, err := d.poll(c, operation)
	if err != nil {
		return err
	}
	writeOperation(w, op)
	return nil
}

func errMethod() error { return refuse(codeMethod, "the path has no operation for this verb") }

func writeOperation(w http.ResponseWriter, op rest.RegistrationOperation) {
	status := http.StatusOK
	if op.Status == rest.RegistrationAssigning {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
		status = http.StatusAccepted
	}
	httpjson.Write(w, status, op)
}

// fail answers with an error.
func (d *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := d.judge(r.Context(), err, "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr)
	httpjson.Write(w, e.Status, d.problem(e))
}

// problem is the document of a refusal.
func (d *Service) problem(e *Error) any {
	doc := struct {
		rest.ProvisioningError
		AuthenticationKey string `json:"authenticationKey,omitempty"`
		KeyName           string `json:"keyName,omitempty"`
	}{ProvisioningError: rest.ProvisioningError{ErrorCode: e.Code, TrackingID: trackingID(), Message: e.Text,
		TimestampUTC: rest.Time{Time: d.o.Now().UTC()}}}
	if len(e.challenge) > 0 {
		doc.AuthenticationKey, doc.KeyName = base64.StdEncoding.EncodeToString(e.challenge), keyName
	}
	return doc
}

// judge turns an error into a refusal. What is none is logged, with about, and
// becomes 500, or 503 when the disk is full.
func (d *Service) judge(ctx context.Context, err error, about ...any) *Error {
	var refusal *Error
	var body *http.MaxBytesError
	log := d.log.With(about...)
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.As(err, &body):
		err = refuse(codeTooLarge, "the body is too large")
	case errors.Is(err, access.ErrRefused):
		log.Info("request refused", "error", err)
		err = errUnauthorized()
	case ctx.Err() != nil, errors.Is(err, store.ErrFull), errors.Is(err, store.ErrClosed):
		log.Warn("request not carried out", "error", err)
		err = refuse(codeTryAgain, "try again later")
	default:
		log.Error("request failed", "error", err)
		err = refuse(codeInternal, "internal error")
	}
	errors.As(err, &refusal)
	return refusal
}

func trackingID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	g := hex.EncodeToString(b[:])
	return g[:8] + "-" + g[8:12] + "-" + g[12:16] + "-" + g[16:20] + "-" + g[20:]
}
