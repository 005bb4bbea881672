package systemd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/daemon/internal/systemd"
)

func TestMain(m *testing.M) {
	if want := os.Getenv("TEST_TAKE"); want != "" {
		child(want)
		return
	}
	goleak.VerifyTestMain(m)
}

// order is what a child is to take.
type order struct {
	URIs []string
	Want systemd.Want
}

// child inherits sockets as the daemon does, and says what it has got.
func child(text string) {
	if os.Getenv("LISTEN_PID") == "self" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	say := func(line string) { os.Stdout.WriteString(line + "\n") }
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		say("error: " + err.Error())
		return
	}
	s, err := systemd.Inherit()
	if err != nil {
		say("error: " + err.Error())
		return
	}
	if v := os.Getenv("LISTEN_FDS") + os.Getenv("LISTEN_PID") + os.Getenv("LISTEN_FDNAMES"); v != "" {
		say("environment: " + v)
	}
	for _, uri := range o.URIs {
		k, ok, err := s.Take(uri, o.Want)
		switch {
		case err != nil:
			say("error: " + err.Error())
		case !ok:
			say("none")
		default:
			conn, err := k.Accept() // the test has connected
			if err != nil {
				say("error: " + err.Error())
				continue
			}
			say(k.Name + " " + k.Path)
			conn.Close()
			k.Close()
		}
	}
	if err := s.Close(); err != nil {
		say("error: " + err.Error())
	}
}

// inherit starts a child with sockets and returns its lines.
func inherit(t *testing.T, files []*os.File, names string, o order) string {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_TAKE="+string(text), "LISTEN_PID=self", "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// listening is a socket with one client that waits.
func listening(t *testing.T, path string, mode os.FileMode) *os.File {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if filepath.IsAbs(path) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSocketsAreTakenByNameAndByPath(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	a := listening(t, filepath.Join(dir, "a.sock"), 0o660)
	b := listening(t, filepath.Join(dir, "b.sock"), 0o660)
	got := inherit(t, []*os.File{a, b}, "w.socket:m.socket", order{
		URIs: []string{"fd://m.socket", "unix://" + dir + "/other.sock", "unix://" + link + "/a.sock", "fd://m.socket"},
		Want: systemd.Want{Mode: 0o660, Group: -1},
	})
	want := "m.socket " + dir + "/b.sock\nnone\nw.socket " + dir + "/a.sock\n" +
		"error: fd://m.socket: the service manager has passed on no socket of this name: none at all (is the daemon started by its unit?)\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestSocketsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	file := func(f *os.File, err error) *os.File {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	tight := systemd.Want{Mode: 0o660, Group: os.Getgid()}
	for _, c := range []struct {
		name string
		file *os.File
		uri  string
		want systemd.Want
		text string
	}{
		{"datagrams", file(udp.(*net.UDPConn).File()), "fd://x", tight, "error: inherited socket x:"},
		{"TCP", file(tcp.(*net.TCPListener).File()), "fd://x", tight, "not a unix socket"},
		{"no path", listening(t, "@breakwater-test-"+strconv.Itoa(os.Getpid()), 0), "fd://x", tight, "not an absolute path"},
		{"too open", listening(t, filepath.Join(dir, "open"), 0o666), "fd://x", tight, "mode 0666, want at most 0660: set SocketMode="},
		{"another name", listening(t, filepath.Join(dir, "name"), 0o660), "fd://y", tight, "no socket of this name: only x"},
		{"as open as it may be", listening(t, filepath.Join(dir, "all"), 0o666), "fd://x", systemd.Want{Mode: 0o666, Group: -1}, "x " + dir + "/all"},
	} {
		if got := inherit(t, []*os.File{c.file}, "x", order{[]string{c.uri}, c.want}); !strings.Contains(got, c.text) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestSocketOfAForeignGroupIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, as the daemon does")
	}
	for group, want := range map[int]string{0: "x /", 4711: "x /", 4712: "open to group 4712: set SocketGroup="} {
		path := filepath.Join(t.TempDir(), "m.sock")
		f := listening(t, path, 0o660)
		if err := os.Chown(path, -1, group); err != nil {
			t.Fatal(err)
		}
		if got := inherit(t, []*os.File{f}, "x", order{[]string{"fd://x"}, systemd.Want{Mode: 0o660, Group: 4711}}); !strings.Contains(got, want) {
			t.Errorf("group %d: %s", group, got)
		}
	}
}

func TestSocketsOfAnotherProcessAreNotTaken(t *testing.T) {
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_PID", "1")
	s, err := systemd.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Take("unix:///run/x.sock", systemd.Want{}); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// manager listens as the service manager does and returns a channel of messages.
func manager(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	out, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1000)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			out <- string(buf[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	t.Setenv("NOTIFY_SOCKET", path)
	return out
}

func TestWatchdogIsQuietWhileTheDaemonLives(t *testing.T) {
	said := manager(t)
	t.Setenv("WATCHDOG_USEC", "40000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var log bytes.Buffer
	n, err := systemd.NewNotifier(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	n.Status("waiting")
	n.Ready()
	for _, want := range []string{"STATUS=waiting", "READY=1"} {
		if got := <-said; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	err = n.Watch(ctx, func(ctx context.Context) error {
		calls++
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 20*time.Millisecond {
			t.Error("alive has too much time")
		}
		switch calls {
		case 1, 2:
			return nil
		case 3:
			return errors.New("deadlock")
		case 4:
			<-ctx.Done() // hangs
			return ctx.Err()
		}
		cancel()
		return ctx.Err()
	})
	n.Stopping()
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"WATCHDOG=1", "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping modules"} {
		if got := <-said; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	}
	if strings.Count(log.String(), "does not answer itself") != 2 {
		t.Errorf("log: %s", &log)
	}
}

func TestWithoutAServiceManager(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(name, "")
	}
	var log bytes.Buffer
	n, err := systemd.NewNotifier(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	n.Ready()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Watch(ctx, func(context.Context) error { t.Error("asked"); return nil }); err != nil || log.Len() > 0 {
		t.Errorf("%v, log %s", err, &log)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := systemd.NewNotifier(slog.Default()); err == nil {
		t.Error("nonsense is taken for a time")
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	n.Ready()
	if !strings.Contains(log.String(), "notify the service manager") {
		t.Errorf("log: %s", &log)
	}
}
