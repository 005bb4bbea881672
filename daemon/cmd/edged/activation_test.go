//go:build integration

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// TestTheProgramUnderSocketActivation runs the program as the units do: systemd's
// own tool opens the sockets and starts it when the first client comes.
func TestTheProgramUnderSocketActivation(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "edged")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "grpcnotrace", "-o", dir+"/", ".", "../edged-log").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	namespace := fmt.Sprintf("breakwater-activation-%d", os.Getpid())
	file := filepath.Join(dir, "config.toml")
	text := `homedir = "` + dir + `/home"
[provisioning]
source = "manual"
connection_string = "HostName=hub.invalid;DeviceId=edge1;SharedAccessKey=c2VjcmV0LXNlY3JldC1zZWNyZXQtMDEyMzQ1Njc4OTA="
[listen]
workload_uri = "fd://aziot-edged.workload.socket"
management_uri = "fd://aziot-edged.mgmt.socket"
[containerd]
namespace = "` + namespace + `"
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("ctr", "namespaces", "remove", namespace).Run() })
	workload, management := filepath.Join(dir, "w.sock"), filepath.Join(dir, "m.sock")
	said := notifySocket(t, filepath.Join(dir, "notify"))

	var log bytes.Buffer
	cmd := exec.Command("systemd-socket-activate", "-l", workload, "-l", management,
		"--fdname=aziot-edged.workload.socket:aziot-edged.mgmt.socket",
		"-E", "NOTIFY_SOCKET="+filepath.Join(dir, "notify"), "-E", "WATCHDOG_USEC=2000000", "-E", "PATH="+os.Getenv("PATH"),
		program, "--config", file)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // its bridge and rules end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			<-ended
			t.Logf("the daemon's log:\n%s", &log)
		}
	})
	await(t, "the sockets", func() bool {
		_, err := os.Stat(management)
		return err == nil
	})
	// As the socket units say; systemd-socket-activate has no option for it.
	if err := errors.Join(os.Chmod(workload, 0o666), os.Chmod(management, 0o660)); err != nil {
		t.Fatal(err)
	}
	before := inode(t, management)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The first call starts the daemon, and is answered.
	if _, err := managementv1.NewModulesClient(dial(t, management)).List(ctx, &managementv1.ListRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("management: %v", err)
	}
	if _, err := workloadv1.NewWorkloadClient(dial(t, workload)).GetTrustBundle(ctx, &workloadv1.GetTrustBundleRequest{}); err != nil {
		t.Errorf("workload: %v", err)
	}
	for _, want := range []string{"STATUS=waiting to be provisioned", "STATUS=device edge1 of hub.invalid", "READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		hear(t, said, want)
	}
	if inode(t, management) != before {
		t.Error("the socket was replaced")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear(t, said, "STOPPING=1")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("end: %v", err)
			t.Log(log.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the daemon does not end")
	}
	ended <- nil
	if inode(t, management) != before {
		t.Error("the socket is gone, though it is the service manager's")
	}
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// hear waits for a message of the daemon that begins with want.
func hear(t *testing.T, said <-chan string, want string) {
	t.Helper()
	for end := time.After(30 * time.Second); ; {
		select {
		case got := <-said:
			if strings.HasPrefix(got, want) {
				return
			}
		case <-end:
			t.Fatalf("the daemon does not say %q", want)
		}
	}
}

// notifySocket listens as the service manager does.
func notifySocket(t *testing.T, path string) <-chan string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	out, done := make(chan string, 1000), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		buf := make([]byte, 1000)
		for ctx.Err() == nil {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			select {
			case out <- string(buf[:n]):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); conn.Close(); <-done })
	return out
}
