package daemon_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/daemon"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestRegistryClientSignsAsTheDevice(t *testing.T) {
	key, err := sas.ParseKey(deviceKey)
	if err != nil {
		t.Fatal(err)
	}
	var header string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Get("Authorization")
		if r.URL.EscapedPath() != "/devices/Edge%2B1/modules" && r.URL.EscapedPath() != "/devices/Edge+1/modules" {
			w.WriteHeader(404)
			return
		}
		_, _ = w.Write([]byte(`[{"moduleId":"m","deviceId":"Edge+1","generationId":"1"}]`))
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	opt := daemon.RegistryOptions{
		Hub: "Hub.Example.net", Host: strings.TrimPrefix(server.URL, "https://"), Device: "Edge+1", Credential: credential.Credential{Sign: key.Sign},
		Roots: roots, Timeout: 10 * time.Second,
	}
	client, err := daemon.NewRegistry(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if all, err := client.ListModules(t.Context(), "Edge+1"); err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	token, err := sas.Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := token.Audience(); err != nil || a.Host != "hub.example.net" || a.Device != "Edge+1" || a.Module != "" {
		t.Errorf("audience %+v, %v", a, err)
	}
	if life := time.Until(token.Expiry); life > 31*time.Second || life < 15*time.Second {
		t.Errorf("token lives %v", life)
	}
	if !token.Verify(key) || token.KeyName != "" {
		t.Error("token does not verify")
	}
	opt.Roots = x509.NewCertPool()
	stranger, err := daemon.NewRegistry(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.ListModules(t.Context(), "Edge+1"); err == nil {
		t.Error("a server outside the roots was trusted")
	}
}

func TestTrustAddsTheConfiguredRoots(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	path := filepath.Join(t.TempDir(), "roots.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, bundle, err := daemon.Trust(config.Config{TrustBundleCert: path})
	if err != nil || string(bundle) != string(text) {
		t.Fatalf("%q, %v", bundle, err)
	}
	if _, err := server.Certificate().Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("configured root is not trusted: %v", err)
	}
	if err := os.WriteFile(path, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := daemon.Trust(config.Config{TrustBundleCert: path}); err == nil {
		t.Error("a bundle without certificates was accepted")
	}
}

type noSockets struct{}

func (noSockets) Open(string) error   { return nil }
func (noSockets) Close(string)        {}
func (noSockets) Remove(string) error { return nil }

func TestEdgeCAIsRenewedInTimeAndClientsLearnTheNewRoot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cache", "terms.json")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(`{"config": "of before", "trust_bundle": "known"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		authority, err := pki.Open(t.Context(), pki.Options{DeviceID: "edge1", Dir: dir, Days: 90})
		if err != nil {
			t.Fatal(err)
		}
		engine := runtimetest.New("reg/a:1")
		manager := module.New(module.Options{Runtime: engine, Sockets: noSockets{}, Log: log})
		for _, name := range []string{"edgeHub", "sensor", module.Agent} {
			if err := manager.Create(t.Context(), module.Spec{Name: name, Image: "reg/a:1"}); err != nil {
				t.Fatal(err)
			}
			if err := manager.Start(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- daemon.RenewCA(ctx, dir, authority, manager, log) }()
		first := authority.Certificate()
		start := time.Now()
		time.Sleep(time.Until(authority.RenewAt()) - time.Hour)
		synctest.Wait()
		if !authority.Certificate().Equal(first) {
			t.Error("renewed too early")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		second := authority.Certificate()
		if second.Equal(first) || second.NotBefore.Sub(start) < 72*24*time.Hour {
			t.Fatalf("not renewed at 80 %%: %v", second.NotBefore)
		}
		for name, restarted := range map[string]bool{"edgeHub": false, module.Agent: false, "sensor": true} {
			st, err := engine.Get(t.Context(), name)
			if err != nil || st.Status != runtime.StatusRunning || st.Started.Before(second.NotBefore) == restarted {
				t.Errorf("%s: %+v, %v", name, st, err)
			}
		}
		// The next start knows that modules have learnt the root, and nothing else.
		var terms struct {
			Config      string `json:"config"`
			TrustBundle string `json:"trust_bundle"`
		}
		if text, err := os.ReadFile(file); err != nil || json.Unmarshal(text, &terms) != nil || terms.Config != "of before" || terms.TrustBundle != authority.TrustBundle() {
			t.Errorf("terms: %+v, %v", terms, err)
		}
		// A failed renewal is tried again after 4 % of the life.
		blocked := filepath.Join(dir, "keys")
		if err := os.RemoveAll(blocked); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(authority.RenewAt()) + time.Hour)
		synctest.Wait()
		if !authority.Certificate().Equal(second) {
			t.Fatal("renewed without a place to store it")
		}
		if err := os.Remove(blocked); err != nil {
			t.Fatal(err)
		}
		time.Sleep(authority.RetryAfter() + time.Hour)
		synctest.Wait()
		if authority.Certificate().Equal(second) {
			t.Error("not tried again")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLastWordsOfTheAgentTellNoSecrets(t *testing.T) {
	secret := strings.Repeat("Zq", 200)
	tests := []struct {
		name  string
		lines []string
		want  string
	}{
		{"nothing", nil, ""},
		{"the last lines in one", []string{"far away", "starting", "  no   route ", "no route"}, "starting no route"},
		{"a password", []string{`login failed: {"password":"hunter2"}`}, `login failed: {"password":"***"}`},
		{"a key that begins before the part that is kept", []string{"SharedAccessKey=" + secret + ";x"}, "SharedAccessKey=***;x"},
		{"a long line", []string{strings.Repeat("ä ", 400)}, strings.Repeat("ä ", 99) + "ä"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			engine := runtimetest.New("reg/a:1")
			manager := module.New(module.Options{Runtime: engine, Sockets: noSockets{}, Log: slog.New(slog.DiscardHandler)})
			if err := manager.Create(t.Context(), module.Spec{Name: module.Agent, Image: "reg/a:1"}); err != nil {
				t.Fatal(err)
			}
			if err := manager.Start(t.Context(), module.Agent); err != nil {
				t.Fatal(err)
			}
			for _, line := range tt.lines {
				engine.Write(module.Agent, runtime.Stdout, line)
			}
			if got := daemon.AgentLastWords(t.Context(), engine); got != tt.want && got != " "+tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
