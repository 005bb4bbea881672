package blob_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/agent/internal/blob"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// azure is as much of the storage service as uploads use, in one account.
type azure struct {
	mu      sync.Mutex
	blobs   map[string][]byte
	headers map[string]http.Header
	blocks  map[string][]byte
	log     []string
	fail    func(n int, r *http.Request) int // status to answer with, 0: none; after the work when lose is set
	lose    bool
	n       int
}

func newAzure() *azure {
	return &azure{blobs: map[string][]byte{}, headers: map[string]http.Header{}, blocks: map[string][]byte{}}
}

func (a *azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(400)
		return
	}
	a.n++
	comp := r.URL.Query().Get("comp")
	a.log = append(a.log, fmt.Sprintf("%s %s%s", r.Method, comp, r.Header.Get("x-ms-blob-type")))
	status := 0
	if a.fail != nil {
		status = a.fail(a.n, r)
	}
	if status != 0 && !a.lose {
		w.WriteHeader(status)
		return
	}
	answer := a.work(w.Header(), r, comp, body)
	if status != 0 {
		answer = status
	}
	w.WriteHeader(answer)
}

func (a *azure) work(h http.Header, r *http.Request, comp string, body []byte) int {
	name := r.URL.Path
	switch {
	case r.Method != http.MethodPut || r.URL.Query().Get("sig") != "hush/+" || r.ContentLength < 0:
		return 403
	case comp == "":
		a.blobs[name], a.headers[name] = body, r.Header
	case comp == "appendblock":
		at, _ := strconv.Atoi(r.Header.Get("x-ms-blob-condition-appendpos"))
		if at != len(a.blobs[name]) {
			h.Set("x-ms-error-code", "AppendPositionConditionNotMet")
			return 412
		}
		a.blobs[name] = append(a.blobs[name], body...)
	case comp == "block":
		a.blocks[r.URL.Query().Get("blockid")] = body
	case comp == "blocklist":
		var list struct{ Latest []string }
		if err := xml.Unmarshal(body, &list); err != nil {
			return 400
		}
		a.headers[name] = r.Header
		for _, id := range list.Latest {
			a.blobs[name] = append(a.blobs[name], a.blocks[id]...)
		}
	}
	return 201
}

const query = "?sv=2021-08-06&sp=w&sig=hush%2F%2B"

func target(t *testing.T, text string) blob.Target {
	t.Helper()
	v, err := blob.ParseTarget(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// on runs f against a server in virtual time, whose connections are pipes.
func on(t *testing.T, h http.Handler, f func(t *testing.T, u *blob.Uploader)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		u := blob.New(handlerTransport{h})
		defer u.Close()
		f(t, u)
	})
}

// handlerTransport calls a handler in place of a network.
type handlerTransport struct{ h http.Handler }

func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	t.h.ServeHTTP(w, r)
	return w.Result(), nil
}

// big writes n bytes in small pieces.
func big(n int) func(io.Writer) error {
	return func(w io.Writer) error {
		piece := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
		for n := n; n > 0; n -= len(piece) {
			if _, err := w.Write(piece[:min(n, len(piece))]); err != nil {
				return err
			}
		}
		return nil
	}
}

var (
	text = blob.Content{Name: "hub/dev/m.log.gz", Kind: blob.Append, Type: "text/plain", Encoding: "gzip"}
	doc  = blob.Content{Name: "hub/dev/m.json", Kind: blob.Block, Type: "application/json"}
)

func TestAppendBlobGrowsByBlocks(t *testing.T) {
	a := newAzure()
	on(t, a, func(t *testing.T, u *blob.Uploader) {
		if err := u.Upload(t.Context(), target(t, "https://acc.example/logs"+query), text, big(9<<20)); err != nil {
			t.Fatal(err)
		}
		if want := []string{"PUT AppendBlob", "PUT appendblock", "PUT appendblock", "PUT appendblock"}; !slices.Equal(a.log, want) {
			t.Errorf("%q", a.log)
		}
		name := "/logs/hub/dev/m.log.gz"
		if h := a.headers[name]; len(a.blobs[name]) != 9<<20 || h.Get("x-ms-blob-content-type") != "text/plain" || h.Get("x-ms-blob-content-encoding") != "gzip" {
			t.Errorf("%d bytes, %v", len(a.blobs[name]), h)
		}
		if err := u.Upload(t.Context(), target(t, "https://acc.example/logs"+query), text, big(0)); err != nil {
			t.Fatal(err)
		}
		if len(a.blobs[name]) != 0 {
			t.Error("an empty log makes an empty blob")
		}
	})
}

func TestBlockBlobIsOneRequestOrAList(t *testing.T) {
	for size, want := range map[int][]string{
		100:         {"PUT BlockBlob"},
		9<<20 + 100: {"PUT block", "PUT block", "PUT block", "PUT blocklist"},
	} {
		a := newAzure()
		on(t, a, func(t *testing.T, u *blob.Uploader) {
			zipped := doc
			zipped.Encoding = "gzip"
			if err := u.Upload(t.Context(), target(t, "https://acc.example/logs"+query), zipped, big(size)); err != nil {
				t.Fatal(err)
			}
			h := a.headers["/logs/hub/dev/m.json"]
			if !slices.Equal(a.log, want) || len(a.blobs["/logs/hub/dev/m.json"]) != size ||
				h.Get("x-ms-blob-content-type") != "application/json" || h.Get("x-ms-blob-content-encoding") != "gzip" {
				t.Errorf("%q, %v", a.log, h)
			}
		})
	}
}

func TestFailedRequestsAreTriedAgainTwice(t *testing.T) {
	for _, lose := range []bool{false, true} { // with lose the work is done and the answer is lost
		a := newAzure()
		a.lose, a.fail = lose, func(n int, _ *http.Request) int { return map[int]int{2: 500, 3: 503}[n] }
		on(t, a, func(t *testing.T, u *blob.Uploader) {
			if err := u.Upload(t.Context(), target(t, "https://acc.example/logs"+query), text, big(5<<20)); err != nil {
				t.Fatalf("lose %v: %v", lose, err)
			}
			if n := len(a.blobs["/logs/hub/dev/m.log.gz"]); n != 5<<20 {
				t.Errorf("lose %v: %d bytes", lose, n)
			}
		})
	}
	for status, tries := range map[int]int{503: 3, 403: 1} {
		a := newAzure()
		a.fail = func(int, *http.Request) int { return status }
		on(t, a, func(t *testing.T, u *blob.Uploader) {
			err := u.Upload(t.Context(), target(t, "https://acc.example/logs"+query), doc, big(10))
			if s, ok := errors.AsType[*blob.StatusError](err); !ok || s.Status != status || a.n != tries {
				t.Errorf("%d: %v after %d requests", status, err, a.n)
			}
		})
	}
}

func TestOtherTargetsGetOnePut(t *testing.T) {
	n := 0
	var got []byte
	var header http.Header
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			w.WriteHeader(500)
			return
		}
		got, _ = io.ReadAll(r.Body)
		header = r.Header
		if r.URL.String() != "https://files.example/in/hub/dev/m.log.gz?token=hush" {
			t.Errorf("%s", r.URL)
		}
	})
	on(t, h, func(t *testing.T, u *blob.Uploader) {
		if err := u.Upload(t.Context(), target(t, "https://files.example/in/?token=hush"), text, big(6<<20)); err != nil {
			t.Fatal(err)
		}
		if len(got) != 6<<20 || header.Get("x-ms-blob-type") != "BlockBlob" || header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%d bytes, %v", len(got), header)
		}
	})
}

func TestErrorOfTheContentEndsTheUpload(t *testing.T) {
	boom := errors.New("no such module")
	for _, address := range []string{"https://files.example/", "https://acc.example/logs" + query} {
		a := newAzure()
		on(t, a, func(t *testing.T, u *blob.Uploader) {
			err := u.Upload(t.Context(), target(t, address), text, func(w io.Writer) error {
				_ = big(100)(w)
				return boom
			})
			if !errors.Is(err, boom) || a.n > 1 {
				t.Errorf("%v after %d requests", err, a.n)
			}
		})
	}
}

func TestURLIsInNoError(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	redirect := httptest.NewServer(http.RedirectHandler("https://elsewhere.example/?sig=hush", http.StatusTemporaryRedirect))
	defer redirect.Close()
	u := blob.New(&http.Transport{DisableKeepAlives: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for address, ctx := range map[string]context.Context{closed.URL: ctx, redirect.URL: t.Context()} {
		for _, q := range []string{query, "?token=hush"} {
			v := target(t, address+"/secretpath"+q)
			err := u.Upload(ctx, v, doc, big(10))
			if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "secretpath") {
				t.Errorf("%v", err)
			}
			if s := fmt.Sprintf("%v %+v %#v", v, v, v); strings.Contains(s, "hush") {
				t.Error(s)
			}
		}
	}
}

func TestThroughAProxy(t *testing.T) {
	a := newAzure()
	server := httptest.NewServer(a)
	defer server.Close()
	var asked string
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.Host
		there, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			w.WriteHeader(502)
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 Connected\r\n\r\n")
		var both sync.WaitGroup
		for _, c := range [][2]net.Conn{{here, there}, {there, here}} {
			both.Go(func() { _, _ = io.Copy(c[0], c[1]); c[0].Close() })
		}
		both.Wait()
	}))
	defer p.Close()
	d, err := proxy.New(p.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	u := blob.New(&http.Transport{DialContext: d.DialContext})
	err = u.Upload(t.Context(), target(t, "http://blob.example/logs"+query), doc, big(10))
	u.Close()
	if err != nil || asked != "CONNECT blob.example:80" || len(a.blobs) != 1 {
		t.Errorf("%v, %q, %d blobs", err, asked, len(a.blobs))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var sink int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		sink += n
		w.WriteHeader(201)
	}))
	defer server.Close()
	for _, q := range []string{query, ""} {
		u := blob.New(&http.Transport{})
		runtime.GC()
		var before, during runtime.MemStats
		runtime.ReadMemStats(&before)
		sink = 0
		err := u.Upload(t.Context(), target(t, server.URL+"/logs"+q), text, func(w io.Writer) error {
			if err := big(256 << 20)(w); err != nil {
				return err
			}
			runtime.GC()
			runtime.ReadMemStats(&during)
			return nil
		})
		u.Close()
		if err != nil || sink != 256<<20 {
			t.Fatal(err, sink)
		}
		if grown := int64(during.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
			t.Errorf("%d bytes more in use", grown)
		}
	}
}

func FuzzTarget(f *testing.F) {
	f.Add("https://account.blob.core.windows.net/container?sv=1&sig=a%2Fb%3D", "hub/dev/m.log")
	f.Add("http://[::1]:80", "")
	f.Add("http://:", "0")
	f.Fuzz(func(t *testing.T, text, name string) {
		v, err := blob.ParseTarget(text)
		if err != nil {
			return
		}
		u := blob.New(handlerTransport{http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			want, _ := url.Parse(strings.TrimSpace(text))
			if r.URL.Hostname() != want.Hostname() {
				t.Errorf("%q goes to %q", text, r.URL.Host)
			}
		})})
		_ = u.Upload(t.Context(), v, blob.Content{Name: name, Kind: blob.Block}, big(1))
	})
}
