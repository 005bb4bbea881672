package check_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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

// nameServer answers for the addresses of some names, and returns how to connect to it.
func nameServer(t *testing.T, known map[string]string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := conn.WriteTo(answerTo(buf[:n], known), from); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		if addr != "10.9.9.9:53" {
			t.Errorf("dials %s", addr)
		}
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}
}

// answerTo is the answer to a question (RFC 1035 4.1).
func answerTo(question []byte, known map[string]string) []byte {
	var name strings.Builder
	at := 12
	for question[at] != 0 {
		size := int(question[at])
		name.Write(question[at+1 : at+1+size])
		name.WriteByte('.')
		at += 1 + size
	}
	kind, end := binary.BigEndian.Uint16(question[at+1:]), at+5
	out := append([]byte{question[0], question[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question[12:end]...)
	addrs, ok := known[name.String()]
	if !ok {
		out[3] |= 3 // no such name
	}
	for _, text := range strings.Fields(addrs) {
		addr := netip.MustParseAddr(text)
		if addr.Is4() != (kind == 1) {
			continue
		}
		raw := addr.AsSlice()
		out = append(out, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(len(raw)))
		out = append(out, raw...)
		out[7]++
	}
	return out
}

func TestNamesAsModulesSeeThem(t *testing.T) {
	const hosts = "127.0.0.1 localhost # hub.test\n\nfd00::1 hub.test\n10.0.0.1\thub.test HUB2.test\nnonsense hub3.test\nfd00::6 six.test\n"
	servers := []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	dial := nameServer(t, map[string]string{"two.": "192.0.2.1 2001:db8::1", "four.": "192.0.2.4", "sixth.": "2001:db8::6"})
	for name, want := range map[string]string{
		"hub.test": "[10.0.0.1 fd00::1]", "hub2.TEST": "[10.0.0.1]", "six.test": "[fd00::6]", "hub3.test": "[]", "other": "[]",
		"two": "[192.0.2.1 2001:db8::1]", "four.": "[192.0.2.4]", "sixth": "[2001:db8::6]", "::1": "[::1]",
	} {
		got, err := check.Lookup(t.Context(), name, hosts, servers, dial)
		if fmt.Sprint(got) != want || (err != nil) != (want == "[]") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := check.Lookup(t.Context(), "two", hosts, nil, dial); err == nil {
		t.Error("found without a name server")
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
		if _, err := check.FindModuleNet(running, check.InModuleNetwork); !errors.Is(err, check.ErrNoModule) {
			t.Errorf("%v: %v", running, err)
		}
		_, shares := running["edgeAgent"]
		if _, err := check.FindModuleNet(running, check.InHostNetwork); (err == nil) != shares || err != nil && !errors.Is(err, check.ErrNoModule) {
			t.Errorf("%v, network of the host: %v", running, err)
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
	device := check.Device(check.DeviceOptions{})
	if err := device.HostConnect(t.Context(), config.Config{TrustBundleCert: bundle}, host, port); err != nil {
		t.Errorf("trusted: %v", err)
	}
	est := config.Config{Issuance: config.Issuance{EST: config.ESTServer{TrustedCerts: []string{bundle}}}}
	if err := device.ESTConnect(t.Context(), est, host, port); err != nil {
		t.Errorf("trusted as an EST server: %v", err)
	}
	if err := device.HostConnect(t.Context(), est, host, port); err == nil {
		t.Error("an EST server's root is trusted for the hub")
	}
	if err := device.HostConnect(t.Context(), config.Config{}, host, port); err == nil {
		t.Error("a stranger's certificate passes")
	}
	server.Close()
	if err := device.HostConnect(t.Context(), config.Config{TrustBundleCert: bundle}, host, port); err == nil {
		t.Error("connected to nothing")
	}
}

func TestProbesOfADeviceThatIsNotSetUp(t *testing.T) {
	dir := t.TempDir()
	p := check.Device(check.DeviceOptions{
		ConfigFile: filepath.Join(dir, "config.toml"), AppliedFile: filepath.Join(dir, "none"), Program: filepath.Join(dir, "edged"),
	})
	cfg := config.Default()
	cfg.HomeDir, cfg.Listen.Management = dir, "unix://"+dir+"/mgmt.sock"
	cfg.Listen.Workload, cfg.TPM.TCTI = "unix://"+dir+"/w.sock", "device:"+dir+"/tpm"
	cfg.Containerd.CNIBinDir, cfg.TrustBundleCert = dir, filepath.Join(dir, "bundle")
	if err := os.WriteFile(cfg.TrustBundleCert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, probe := range map[string]func() error{
		"config":    func() error { _, err := p.Config(); return err },
		"changed":   func() error { _, err := p.ConfigChanged(); return err },
		"plugins":   func() error { return p.Plugins(cfg) },
		"uptime":    func() error { _, err := p.Uptime(t.Context(), cfg); return err },
		"info":      func() error { _, err := p.Info(t.Context(), cfg); return err },
		"workload":  func() error { return p.Workload(t.Context(), cfg) },
		"TPM":       func() error { return p.TPM(t.Context(), cfg) },
		"applied":   func() error { _, err := p.Applied(); return err },
		"installed": func() error { _, err := p.Installed(t.Context()); return err },
		"edge CA":   func() error { _, err := p.EdgeCA(cfg); return err },
		"bundle":    func() error { _, err := p.TrustBundle(cfg); return err },
	} {
		if probe() == nil {
			t.Errorf("%s: all is well", name)
		}
	}
}

func TestWhatIsAppliedAndInstalled(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p := check.Device(check.DeviceOptions{
		ConfigFile: write("config", "a"), AppliedFile: write("applied", "a"), Program: write("edged", "#!/bin/sh\necho edged 1.2.3\n"),
	})
	if same, err := p.Applied(); !same || err != nil {
		t.Errorf("%v, %v", same, err)
	}
	write("applied", "b")
	if same, err := p.Applied(); same || err != nil {
		t.Errorf("%v, %v", same, err)
	}
	if v, err := p.Installed(t.Context()); v != "1.2.3" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	write("edged", "#!/bin/sh\necho other\n")
	if v, err := p.Installed(t.Context()); err == nil {
		t.Errorf("version %q", v)
	}
	if err := os.Remove(filepath.Join(dir, "config")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Applied(); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing configuration: %v", err)
	}
}

func TestModulesAsTheirProcessesShowThem(t *testing.T) {
	const mounts = `1 0 0:1 / / rw - overlay overlay rw
2 1 0:2 / /tmp rw - tmpfs tmpfs rw
3 1 8:1 /srv /iotedge/storage rw,relatime master:1 - ext4 /dev/sda1 rw
4 1 8:1 /x /with\\040space rw - ext4 /dev/sda1 rw
nonsense
`
	for folder, want := range map[string]bool{
		"/iotedge/storage": true, "/iotedge/storage/edgeHub": true, "/iotedge/storages": false, "/iotedge": false,
		"/tmp": false, "/tmp/x": false, "/": false, "/data": false, "/with space/x": true,
	} {
		if got := check.OnHostMount([]byte(strings.ReplaceAll(mounts, `\\`, `\`)), folder); got != want {
			t.Errorf("%s: %v", folder, got)
		}
	}
	for text, want := range map[string]string{"": "/tmp", "A=b\x00storageFolder=/x/\x00": "/x", "StorageFolder=/y\x00storageFolder=/x": "/y", "StorageFolder": "/tmp"} {
		if got := check.StorageFolder(check.Environ([]byte(text))); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestLogsAreMeasured(t *testing.T) {
	cfg := config.Config{HomeDir: t.TempDir()}
	p := check.Device(check.DeviceOptions{})
	if sizes, err := p.LogSizes(cfg); err != nil || len(sizes) > 0 {
		t.Errorf("%v, %v", sizes, err)
	}
	for name, size := range map[string]int{"logs/a/1": 10, "logs/a/2": 5, "logs/b/1": 1} {
		file := filepath.Join(cfg.HomeDir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if sizes, err := p.LogSizes(cfg); err != nil || sizes["a"] != 15 || sizes["b"] != 1 || len(sizes) != 2 {
		t.Errorf("%v, %v", sizes, err)
	}
}
