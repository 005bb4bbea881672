package blob

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Kind is the kind of blob in Azure storage.
type Kind string

// The kinds.
const (
	Append Kind = "AppendBlob" // grows while it is written
	Block  Kind = "BlockBlob"  // is there when it is whole
)

// Content describes what is uploaded.
type Content struct {
	Name     string // path below the target
	Kind     Kind
	Type     string // MIME type
	Encoding string // gzip, or empty
}

const (
	// blockSize is the most that one append takes.
	blockSize  = 4 << 20
	maxBlocks  = 50000
	retries    = 2
	firstPause = 5 * time.Second
	lastPause  = 20 * time.Second
	// requestTimeout bounds a request that carries a block or less.
	requestTimeout = 5 * time.Minute
)

// Uploader uploads. It may be used from many goroutines.
type Uploader struct{ client *http.Client }

// New returns an uploader that connects with transport. Redirections are not
// followed: the authorization is for one host.
func New(transport http.RoundTripper) *Uploader {
	return &Uploader{client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes connections that wait for more.
func (u *Uploader) Close() { u.client.CloseIdleConnections() }

// Upload sends what write writes. A request that fails is tried again twice, 5 to
// 20 s later; where there are no blocks, write is called again for that.
func (u *Uploader) Upload(ctx context.Context, t Target, c Content, write func(io.Writer) error) error {
	if t.signed() {
		w := &blockWriter{u: u, ctx: ctx, target: t, content: c}
		if err := write(w); err != nil {
			return err
		}
		return w.close()
	}
	return u.retry(ctx, func() error { return u.stream(ctx, t, c, write) })
}

// sourceError is an error of the content, for which trying again is of no use.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// stream sends the whole in one request.
func (u *Uploader) stream(ctx context.Context, t Target, c Content, write func(io.Writer) error) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		done <- err
	}()
	err := u.put(ctx, t.at(c.Name, nil), blobHeader(c), r, -1)
	r.CloseWithError(errClosed)
	if source := <-done; source != nil && !errors.Is(source, errClosed) && !errors.Is(source, io.ErrClosedPipe) {
		return sourceError{source}
	}
	return err
}

var errClosed = errors.New("the request has ended")

func blobHeader(c Content) http.Header {
	h := http.Header{"Content-Type": {c.Type}, "X-Ms-Blob-Type": {string(Block)}}
	if c.Encoding != "" {
		h.Set("Content-Encoding", c.Encoding)
	}
	return h
}

// retry calls f again after failures that may pass.
func (u *Uploader) retry(ctx context.Context, f func() error) error {
	for attempt := 0; ; attempt++ {
		err := f()
		if err == nil || attempt == retries || !passes(err) || ctx.Err() != nil {
			return err
		}
		pause := time.NewTimer(firstPause + rand.N(lastPause-firstPause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

func passes(err error) bool {
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.Status >= 500 || s.Status == http.StatusRequestTimeout || s.Status == http.StatusTooManyRequests
	}
	_, source := errors.AsType[sourceError](err)
	return !source
}

// StatusError is an answer of the target that is no success.
type StatusError struct {
	Status int
	Code   string // Azure's word for it, if it gave one
}

// Error gives status and code.
func (e *StatusError) Error() string {
	if e.Code != "" {
		return fmt.Sprintf("the target answered %d (%s)", e.Status, e.Code)
	}
	return fmt.Sprintf("the target answered %d", e.Status)
}

// put sends one request. Size -1: not known before.
func (u *Uploader) put(ctx context.Context, address string, h http.Header, body io.Reader, size int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, address, body)
	if err != nil {
		return errors.New("the request cannot be made") // the reason would show the URL
	}
	req.Header, req.ContentLength = h, size
	if size == 0 {
		req.Body = http.NoBody
	}
	res, err := u.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL
		}
		return fmt.Errorf("request: %w", err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return &StatusError{res.StatusCode, word(res.Header.Get("X-Ms-Error-Code"))}
	}
	return nil
}

// word keeps a foreign text to what Azure's codes are made of.
func word(s string) string {
	for i, r := range s {
		if i == 64 || (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return s[:i]
		}
	}
	return s
}

// blockWriter speaks Azure's protocol of blocks. It belongs to one Upload, and so
// does its context.
type blockWriter struct {
	u       *Uploader
	ctx     context.Context //nolint:containedctx // of the one call that this writer lives in
	target  Target
	content Content
	buffer  bytes.Buffer
	blocks  int
	sent    int64
}

// Write takes content; full blocks are sent.
func (w *blockWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := min(len(p), blockSize-w.buffer.Len())
		w.buffer.Write(p[:part])
		p = p[part:]
		if w.buffer.Len() == blockSize {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (w *blockWriter) close() error {
	if w.content.Kind == Block && w.blocks == 0 {
		h := w.properties()
		h.Set("X-Ms-Blob-Type", string(Block))
		return w.request(nil, h, w.buffer.Bytes())
	}
	if w.blocks == 0 || w.buffer.Len() > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if w.content.Kind == Append {
		return nil
	}
	var list struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string
	}
	for i := range w.blocks {
		list.Latest = append(list.Latest, blockID(i))
	}
	body, err := xml.Marshal(list)
	if err != nil {
		return fmt.Errorf("block list: %w", err)
	}
	return w.request(url.Values{"comp": {"blocklist"}}, w.properties(), body)
}

// properties are those of the blob, which are not always those of the request's body.
// Not every storage server takes the encoding of a body for that of the blob.
func (w *blockWriter) properties() http.Header {
	h := http.Header{"X-Ms-Blob-Content-Type": {w.content.Type}}
	if w.content.Encoding != "" {
		h.Set("X-Ms-Blob-Content-Encoding", w.content.Encoding)
	}
	return h
}

func (w *blockWriter) flush() error {
	if w.blocks == maxBlocks {
		return fmt.Errorf("more than %d blocks of %d bytes", maxBlocks, blockSize)
	}
	defer w.buffer.Reset()
	body := w.buffer.Bytes()
	if w.content.Kind == Block {
		err := w.request(url.Values{"comp": {"block"}, "blockid": {blockID(w.blocks)}}, http.Header{}, body)
		w.blocks++
		return err
	}
	if w.blocks == 0 {
		h := w.properties()
		h.Set("X-Ms-Blob-Type", string(Append))
		if err := w.request(nil, h, nil); err != nil {
			return err
		}
	}
	w.blocks++
	if len(body) == 0 {
		return nil
	}
	// The condition makes a block that has arrived, and whose answer was lost, fail
	// when it is sent again.
	h := http.Header{"X-Ms-Blob-Condition-Appendpos": {strconv.FormatInt(w.sent, 10)}}
	err := w.request(url.Values{"comp": {"appendblock"}}, h, body)
	w.sent += int64(len(body))
	return err
}

func (w *blockWriter) request(more url.Values, h http.Header, body []byte) error {
	again := false
	err := w.u.retry(w.ctx, func() error {
		ctx, cancel := context.WithTimeout(w.ctx, requestTimeout)
		defer cancel()
		err := w.u.put(ctx, w.target.at(w.content.Name, more), h.Clone(), bytes.NewReader(body), int64(len(body)))
		if s, ok := errors.AsType[*StatusError](err); ok && again && s.Code == "AppendPositionConditionNotMet" {
			return nil // the try before has arrived
		}
		again = true
		return err
	})
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	return nil
}

func blockID(i int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%08d", i))
}
