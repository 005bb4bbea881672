package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/pkcs11"
)

// TestMain is the helper, too: the daemon starts it with one argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "fake:") {
		fake(strings.TrimPrefix(os.Args[1], "fake:"))
		return
	}
	goleak.VerifyTestMain(m)
}

// fake answers as the mode says; "die" and "hang" are in the data of a request.
func fake(mode string) {
	switch mode {
	case "dead":
		os.Exit(3)
	case "garbage":
		_, _ = os.Stdout.WriteString("loading library...\n")
	case "eager":
		for range 3 {
			_ = pkcs11.WriteFrame(os.Stdout, pkcs11.Response{Result: []byte("unasked")})
		}
	}
	for {
		var r pkcs11.Request
		if pkcs11.ReadFrame(os.Stdin, &r) != nil {
			return
		}
		switch string(r.Data) {
		case "die":
			_, _ = os.Stderr.WriteString("segmentation fault\n")
			os.Exit(139)
		case "hang":
			_, _ = io.Copy(io.Discard, os.Stdin)
			select {}
		case "fail":
			_ = pkcs11.WriteFrame(os.Stdout, pkcs11.Response{N: r.N, Error: "CKR_GENERAL_ERROR"})
		default:
			_ = pkcs11.WriteFrame(os.Stdout, pkcs11.Response{N: r.N, Result: append([]byte(r.Key.Object+"/"+r.Key.PIN+"/"), r.Data...)})
		}
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func open(t *testing.T, mode string, out io.Writer) *pkcs11.Token {
	t.Helper()
	if out == nil {
		out = io.Discard
	}
	token := pkcs11.New(pkcs11.Options{
		Program: os.Args[0], Library: "fake:" + mode, Timeout: 5 * time.Second, Log: slog.New(slog.NewTextHandler(out, nil)),
	})
	t.Cleanup(token.Close)
	return token
}

const uri = "pkcs11:token=t;object=device%20id?pin-value=1234"

func TestHelperThatCrashesCostsOneOperation(t *testing.T) {
	var log buffer
	token := open(t, "", &log)
	ask := func(data string) (string, error) {
		out, err := token.HMAC(t.Context(), uri, []byte(data))
		return string(out), err
	}
	if out, err := ask("x"); err != nil || out != "device id/1234/x" {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := ask("fail"); err == nil || !strings.Contains(err.Error(), "CKR_GENERAL_ERROR") {
		t.Fatal(err)
	}
	if out, err := ask("after an error"); err != nil || !strings.HasSuffix(out, "after an error") {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := ask("die"); err == nil || !strings.Contains(err.Error(), "helper has ended: exit status 139") {
		t.Fatal(err)
	}
	// It is not started again at once, but soon.
	if _, err := ask("x"); err == nil || !strings.Contains(err.Error(), "not started again for") {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for {
		if out, err := ask("x"); err == nil && out == "device id/1234/x" {
			break
		}
		select {
		case <-deadline:
			t.Fatal("never started again")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if !strings.Contains(log.String(), "segmentation fault") || strings.Contains(log.String(), "1234") {
		t.Errorf("log %s", &log)
	}
	token.Close()
	if _, err := ask("x"); !errors.Is(err, pkcs11.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestHelperThatHangsIsEnded(t *testing.T) {
	token := open(t, "", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := token.HMAC(ctx, uri, []byte("hang"))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Fatalf("%v after %v", err, time.Since(begin))
	}
}

func TestHelperThatIsNoHelper(t *testing.T) {
	for _, mode := range []string{"dead", "garbage", "eager"} {
		if _, err := open(t, mode, nil).HMAC(t.Context(), uri, []byte("x")); err == nil {
			t.Errorf("%s: no error", mode)
		}
	}
	token := pkcs11.New(pkcs11.Options{Program: "/nowhere/edged-pkcs11", Library: "x", Log: slog.New(slog.DiscardHandler)})
	defer token.Close()
	if _, err := token.Signer(t.Context(), uri); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestOperationsFromManySides(t *testing.T) {
	token := open(t, "", nil)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			data := strings.Repeat("x", i)
			if out, err := token.HMAC(t.Context(), uri, []byte(data)); err != nil || string(out) != "device id/1234/"+data {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	all.Wait()
}

func TestURIs(t *testing.T) {
	pin := t.TempDir() + "/pin"
	if err := os.WriteFile(pin, []byte("4321\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := pkcs11.ParseURI("pkcs11:slot-id=7;token=my%20token;serial=0a;object=a%3bb;id=%01%ff;type=private?module-path=/x&pin-source=file:" + pin)
	if err != nil || *u.Slot != 7 || u.Token != "my token" || u.Serial != "0a" || u.Object != "a;b" || string(u.ID) != "\x01\xff" || u.PIN != "4321" {
		t.Fatalf("%+v, %v", u, err)
	}
	for _, bad := range []string{
		"", "file:///x", "pkcs11:object", "pkcs11:slot-id=x", "pkcs11:objekt=x", "pkcs11:object=%zz", "pkcs11:object=a?pin=secret-pin",
		"pkcs11:object=a?pin-value=secret-pin%z", "pkcs11:object=a?pin-source=/nowhere",
	} {
		if _, err := pkcs11.ParseURI(bad); err == nil || strings.Contains(err.Error(), "secret-pin") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzURI(f *testing.F) {
	f.Add(uri)
	f.Add("pkcs11:slot-id=1;id=%00?module-name=x")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "pin-source") {
			return // would read files
		}
		if u, err := pkcs11.ParseURI(s); err == nil && !strings.HasPrefix(s, "pkcs11:") {
			t.Fatalf("%+v", u)
		}
	})
}

func FuzzFrame(f *testing.F) {
	var good bytes.Buffer
	_ = pkcs11.WriteFrame(&good, pkcs11.Request{Op: pkcs11.OpSign, Data: []byte("x")})
	f.Add(good.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			var req pkcs11.Request
			if pkcs11.ReadFrame(r, &req) != nil {
				return
			}
		}
	})
}
