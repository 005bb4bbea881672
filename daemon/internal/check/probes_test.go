package check_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"encoding/pem"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

// timeServer answers one request with a clock that is ahead, after a change.
func timeServer(t *testing.T, ahead time.Duration, change func(reply []byte)) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		n, from, err := conn.ReadFrom(buf)
		if err != nil || n != 48 {
			return
		}
		reply := make([]byte, 48)
		reply[0], reply[1] = 4<<3|4, 2
		copy(reply[24:], buf[40:48])
		for _, at := range []int{32, 40} {
			binary.BigEndian.PutUint32(reply[at:], uint32(time.Now().Add(ahead).Unix()+2208988800))
		}
		change(reply)
		_, _ = conn.WriteTo(reply, from)
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

func TestClockOffset(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -100 * time.Hour} {
		got, err := check.ClockOffset(t.Context(), timeServer(t, ahead, func([]byte) {}))
		if err != nil || (got-ahead).Abs() > 2*time.Second {
			t.Errorf("%v ahead: %v, %v", ahead, got, err)
		}
	}
	for name, change := range map[string]func([]byte){
		"a client's": func(b []byte) { b[0] = 4<<3 | 3 }, "unsynchronised": func(b []byte) { b[0] |= 3 << 6 },
		"no stratum": func(b []byte) { b[1] = 0 }, "for somebody else": func(b []byte) { b[24]++ },
	} {
		if got, err := check.ClockOffset(t.Context(), timeServer(t, 0, change)); err == nil {
			t.Errorf("answer %s gives %v", name, got)
		}
	}
}

func FuzzOffsetOf(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Add([]byte{4<<3 | 4, 1})
	f.Fuzz(func(t *testing.T, reply []byte) {
		stamp := make([]byte, 8)
		if len(reply) >= 48 {
			copy(stamp, reply[24:])
		}
		sent := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		if d, err := check.OffsetOf(reply, stamp, sent, sent); err == nil && d.Abs() > 200*365*24*time.Hour {
			t.Fatalf("offset %v", d)
		}
	})
}

func TestNamesAsModulesSeeThem(t *testing.T) {
	const hosts = "127.0.0.1 localhost # hub.test\n\n10.0.0.1\thub.test HUB2.test\nnonsense hub3.test\nfe80::1 six.test\n"
	for name, want := range map[string]string{"hub.test": "10.0.0.1", "hub2.TEST": "10.0.0.1", "six.test": "fe80::1", "hub3.test": "", "other": ""} {
		got, ok := check.FromHostsFile([]byte(hosts), name)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	got := check.Nameservers([]byte("# x\nsearch a\nnameserver 10.0.0.2\nnameserver nonsense\nnameserver ::1 # y\nnameserver\n"))
	if want := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("::1")}; !slices.Equal(got, want) {
		t.Errorf("name servers %v", got)
	}
}

func TestContainersInTheHostsNetworkAreNoModuleNetwork(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, running := range []map[string]int{nil, {"edgeAgent": cmd.Process.Pid}, {"gone": 1 << 30}} {
		if _, err := check.FindModuleNet(running); !errors.Is(err, check.ErrNoModule) {
			t.Errorf("%v: %v", running, err)
		}
	}
}

func TestConnectVerifiesTheHub(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	host, p, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(bundle, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check.HostConnect(t.Context(), config.Config{TrustBundleCert: bundle}, host, port); err != nil {
		t.Errorf("trusted: %v", err)
	}
	if err := check.HostConnect(t.Context(), config.Config{}, host, port); err == nil {
		t.Error("a stranger's certificate passes")
	}
	server.Close()
	if err := check.HostConnect(t.Context(), config.Config{TrustBundleCert: bundle}, host, port); err == nil {
		t.Error("connected to nothing")
	}
}

func TestProbesOfADeviceThatIsNotSetUp(t *testing.T) {
	dir := t.TempDir()
	p := check.Device(filepath.Join(dir, "config.toml"))
	cfg := config.Default()
	cfg.HomeDir, cfg.Listen.Management = dir, "unix://"+dir+"/mgmt.sock"
	cfg.Containerd.CNIBinDir, cfg.TrustBundleCert = dir, filepath.Join(dir, "bundle")
	if err := os.WriteFile(cfg.TrustBundleCert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, probe := range map[string]func() error{
		"config":  func() error { _, err := p.Config(); return err },
		"changed": func() error { _, err := p.ConfigChanged(); return err },
		"plugins": func() error { return p.Plugins(cfg) },
		"uptime":  func() error { _, err := p.Uptime(t.Context(), cfg); return err },
		"edge CA": func() error { _, err := p.EdgeCA(cfg); return err },
		"bundle":  func() error { _, err := p.TrustBundle(cfg); return err },
	} {
		if probe() == nil {
			t.Errorf("%s: all is well", name)
		}
	}
}
