package method_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/blob"
	"github.com/breakwater-iot/breakwater/agent/internal/method"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func (f *fake) SupportBundle(_ context.Context, since, until string, edgeRuntimeOnly bool, w io.Writer) error {
	_, err := fmt.Fprintf(w, "zip since %s until %s only %v", since, until, edgeRuntimeOnly)
	return errors.Join(err, f.err)
}

// storage takes uploads into memory.
type storage struct {
	mu    sync.Mutex
	blobs map[string]string
	kinds []blob.Content
	hold  chan struct{}
	err   error
}

func (s *storage) Upload(ctx context.Context, t blob.Target, c blob.Content, write func(io.Writer) error) error {
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds = append(s.kinds, c)
	s.blobs[c.Name] = b.String()
	return s.err
}

// uploading runs f on a handler that works, in virtual time.
func uploading(t *testing.T, f func(call func(name, payload string) (int, string), s *storage, d *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, d := &storage{blobs: map[string]string{}}, newFake()
		h := method.New(d, method.Options{HubName: "hub", DeviceID: "dev", Timeout: time.Minute, Uploader: s, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		f(func(name, payload string) (int, string) {
			r := h.Handle(ctx, iothub.MethodRequest{Name: name, Payload: json.RawMessage(payload)})
			return r.Status, string(r.Payload)
		}, s, d)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type task struct{ Status, Message, CorrelationID string }

func begin(t *testing.T, status int, body string) task {
	t.Helper()
	var v task
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != 200 || len(v.CorrelationID) != 36 {
		t.Fatal(status, body)
	}
	return v
}

const sas = `"sasUrl":"https://account.blob.example/logs?sv=1&sig=hush"`

func TestUploadIsATask(t *testing.T) {
	uploading(t, func(call func(string, string) (int, string), s *storage, _ *fake) {
		s.hold = make(chan struct{})
		status, body := call("UploadModuleLogs", `{"schemaVersion":"1.0",`+sas+`,"items":[{"id":"filter|hub","filter":{"tail":2}}]}`)
		v := begin(t, status, body)
		if want := `{"status":"NotStarted","message":"","correlationId":"` + v.CorrelationID + `"}`; body != want {
			t.Errorf("got %s, want %s", body, want)
		}
		ask := func() string {
			_, body := call("GetTaskStatus", `{"schemaVersion":"1.0","correlationId":"`+v.CorrelationID+`"}`)
			return body
		}
		synctest.Wait()
		if got := ask(); !strings.Contains(got, `"Running"`) {
			t.Error(got)
		}
		close(s.hold)
		synctest.Wait()
		if got, want := ask(), `{"status":"Completed","message":"","correlationId":"`+v.CorrelationID+`"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		for name, want := range map[string]string{
			"hub/dev/edgeHub-2000-01-01--00-00-00.log": "plain three\n<4> four\n",
			"hub/dev/filter-2000-01-01--00-00-00.log":  "of pieces\nunfinished\n", // the daemon's tail counts pieces here
		} {
			if got, ok := s.blobs[name]; !ok || got != want {
				t.Errorf("%s: %q; there are %v", name, got, s.kinds)
			}
		}
		if k := s.kinds[0]; k.Kind != blob.Append || k.Type != "text/plain" || k.Encoding != "" {
			t.Errorf("%+v", k)
		}
	})
}

func TestUploadFormats(t *testing.T) {
	for request, want := range map[string]blob.Content{
		`"encoding":"gzip"`:                        {Name: "log.gz", Kind: blob.Append, Type: "text/plain", Encoding: "gzip"},
		`"contentType":"json"`:                     {Name: "json", Kind: blob.Block, Type: "application/json"},
		`"contentType":"json","encoding":"gzip"`:   {Name: "json.gz", Kind: blob.Block, Type: "application/json", Encoding: "gzip"},
		`"contentType":"text","encoding":"none"`:   {Name: "log", Kind: blob.Append, Type: "text/plain"},
		`"encoding":"none","contentType":"string"`: {},
	} {
		uploading(t, func(call func(string, string) (int, string), s *storage, _ *fake) {
			status, body := call("UploadLogs", `{"schemaVersion":"1.0",`+sas+`,"items":{"id":"hub"},`+request+`}`)
			if want.Name == "" {
				if status != 400 {
					t.Errorf("%s: %d %s", request, status, body)
				}
				return
			}
			begin(t, status, body)
			synctest.Wait()
			got := s.kinds[0]
			_, got.Name, _ = strings.Cut(got.Name, ".")
			if got != want {
				t.Errorf("%s: %+v, want %+v", request, got, want)
			}
		})
	}
}

func TestFailedTaskTellsWhyAndHidesTheURL(t *testing.T) {
	uploading(t, func(call func(string, string) (int, string), s *storage, _ *fake) {
		s.err = errors.New("the target answered 403")
		status, body := call("UploadSupportBundle", `{"schemaVersion":"1.0",`+sas+`,"since":"2d","until":1700000000,"edgeRuntimeOnly":true}`)
		v := begin(t, status, body)
		synctest.Wait()
		_, got := call("GetTaskStatus", `{"schemaVersion":"1.0","correlationId":"`+v.CorrelationID+`"}`)
		if !strings.Contains(got, `"Failed"`) || !strings.Contains(got, "UploadSupportBundle failed: support bundle: the target answered 403") || strings.Contains(got, "hush") {
			t.Error(got)
		}
		if b := s.blobs["hub/dev/support-bundle-2000-01-01--00-00-00.zip"]; b != "zip since 2d until 1700000000 only true" {
			t.Errorf("%q of %v", b, s.blobs)
		}
	})
}

func TestTasksAreBounded(t *testing.T) {
	uploading(t, func(call func(string, string) (int, string), s *storage, _ *fake) {
		s.hold = make(chan struct{})
		var ids []string
		for range 18 { // 2 workers and 16 that wait
			status, body := call("UploadSupportBundle", `{"schemaVersion":"1.0",`+sas+`}`)
			ids = append(ids, begin(t, status, body).CorrelationID)
			synctest.Wait()
		}
		if status, body := call("UploadSupportBundle", `{"schemaVersion":"1.0",`+sas+`}`); status != 500 || !strings.Contains(body, "16 tasks wait already") {
			t.Error(status, body)
		}
		close(s.hold)
		for range 100 {
			synctest.Wait()
			status, body := call("UploadSupportBundle", `{"schemaVersion":"1.0",`+sas+`}`)
			ids = append(ids, begin(t, status, body).CorrelationID)
		}
		for i, want := range map[int]string{0: "Unknown", 17: "Unknown", 18: "Completed"} {
			synctest.Wait()
			if _, body := call("GetTaskStatus", `{"schemaVersion":"1.0","correlationId":"`+ids[i]+`"}`); !strings.Contains(body, want) {
				t.Errorf("task %d: %s, want %s", i, body, want)
			}
		}
	})
}

func TestTaskOfAnotherProcessIsUnknown(t *testing.T) {
	status, body := call(t, newFake(), "GetTaskStatus", `{"schemaVersion":"1.0","correlationId":"5c2b"}`)
	if status != 200 || body != `{"status":"Unknown","message":"","correlationId":"5c2b"}` {
		t.Error(status, body)
	}
	if status, body := call(t, newFake(), "GetTaskStatus", `{"schemaVersion":"1.0"}`); status != 400 {
		t.Error(status, body)
	}
}

func TestRefusedUploadsDoNotShowTheURL(t *testing.T) {
	for url, want := range map[string]string{
		``:                         "is missing",
		`ftp://x/y?sig=hush`:       "must begin with",
		`https://%zz?sig=hush`:     "is no URL",
		`https://$upstream:443/l?`: "no parent",
		`https:///x?sig=hush`:      "names no host",
	} {
		for _, name := range []string{"UploadModuleLogs", "UploadSupportBundle"} {
			status, body := call(t, newFake(), name, `{"schemaVersion":"1.0","items":{"id":"hub"},"sasUrl":"`+url+`"}`)
			if status != 400 || !strings.Contains(body, want) || strings.Contains(body, "hush") {
				t.Errorf("%s %s: %d %s", name, url, status, body)
			}
		}
	}
}

func TestLineWithoutAnEndIsCut(t *testing.T) {
	f := newFake()
	f.logs["edgeHub"] = lines(strings.Repeat("x", 200<<10), strings.Repeat("y", 200<<10), strings.Repeat("z", 10)+"\n")
	r := logs(t, f, `"items":{"id":"hub"},"encoding":"gzip"`)
	z, err := gzip.NewReader(bytes.NewReader(r[0].PayloadBytes))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || len(text) != 400<<10+10+2 || !bytes.HasSuffix(text, []byte("y\nzzzzzzzzzz\n")) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestTasksThatTheAgentDoesNotEndAreCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storage{blobs: map[string]string{}, hold: make(chan struct{})}
		h := method.New(newFake(), method.Options{HubName: "hub", DeviceID: "dev", Timeout: time.Minute, Uploader: s, Log: slog.New(slog.DiscardHandler)})
		call := func(name, payload string) (int, string) {
			r := h.Handle(t.Context(), iothub.MethodRequest{Name: name, Payload: json.RawMessage(payload)})
			return r.Status, string(r.Payload)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		var begun []task // more than are carried out at once
		for range 4 {
			status, body := call("UploadSupportBundle", `{"schemaVersion":"1.0",`+sas+`}`)
			begun = append(begun, begin(t, status, body))
			synctest.Wait()
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i, v := range begun {
			_, body := call("GetTaskStatus", `{"schemaVersion":"1.0","correlationId":"`+v.CorrelationID+`"}`)
			want := `"message":"Task ` + v.CorrelationID + ` of UploadSupportBundle was cancelled: the agent is ending"`
			if !strings.Contains(body, `"status":"Cancelled"`) || !strings.Contains(body, want) {
				t.Errorf("task %d: %s", i, body)
			}
		}
		if status, body := call("UploadSupportBundle", `{"schemaVersion":"1.0",`+sas+`}`); status != 500 || !strings.Contains(body, "is ending") {
			t.Errorf("a task that nobody will carry out: %d %s", status, body)
		}
	})
}
