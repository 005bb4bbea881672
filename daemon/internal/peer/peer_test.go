package peer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// dialEnv makes the test binary connect to a socket and wait, as another process.
const dialEnv = "PEER_TEST_DIAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(dialEnv); path != "" {
		c, err := net.Dial("unix", path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("connected")
		_, _ = io.Copy(io.Discard, c)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

type named struct{ id string }

func (n named) GetModuleId() string { return n.id }

// resolver maps every process to one module.
type resolver struct {
	module string
	err    error
}

func (r resolver) ModuleOfPid(_ context.Context, pid int) (runtime.Process, error) {
	return runtime.Process{Pid: pid, Module: r.module}, r.err
}

// accept returns a connection accepted from this process, and its other end.
func accept(t *testing.T, socket string) (*peer.Conn, net.Conn) {
	t.Helper()
	ln := listen(t)
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := peer.Accepted(raw, socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, client
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestAcceptedKnowsTheProcess(t *testing.T) {
	conn, _ := accept(t, "temp")
	c := conn.Caller()
	if c.Pid != os.Getpid() || c.UID != os.Getuid() || c.GID != os.Getgid() || c.Socket != "temp" {
		t.Fatalf("caller %+v", c)
	}
	groups, err := os.Getgroups()
	if err != nil || len(groups) != len(c.Groups) {
		t.Fatalf("groups %v, want %v (%v)", c.Groups, groups, err)
	}
	if err := c.Alive(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if c.Alive() == nil {
		t.Fatal("alive after the handle was closed")
	}
}

func TestConnectionEndsWithThePeerProcess(t *testing.T) {
	ln := listen(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), dialEnv+"="+ln.Addr().String())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	conn, err := peer.Accepted(raw, "", func() { close(ended) })
	if err != nil {
		t.Fatal(err)
	}
	caller := conn.Caller()
	if caller.Pid != child.Process.Pid {
		t.Fatalf("pid %d, want %d", caller.Pid, child.Process.Pid)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	guard := &peer.Guard{Policy: peer.Policy{"/m": peer.Agent}, Resolver: resolver{module: "edgeAgent"}, Log: slog.New(slog.DiscardHandler)}
	ctx := peer.NewContext(t.Context(), caller)
	if err := guard.Check(ctx, "/m", nil); err != nil {
		t.Fatalf("before the end: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The kernel closes the process's end first (EOF), and reports its end then.
	deadline := time.Now().Add(10 * time.Second)
	for err = io.EOF; !errors.Is(err, net.ErrClosed); _, err = conn.Read(make([]byte, 1)) {
		if time.Now().After(deadline) {
			t.Fatalf("connection is not closed after the peer's end: %v", err)
		}
	}
	// Still a zombie: the pid is not free, but its process must not pass any more.
	if err := guard.Check(ctx, "/m", nil); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("after the end: %v", err)
	}
	if err := child.Wait(); err == nil {
		t.Fatal("killed child ended well")
	}
	conn.Close()
	<-ended
}

func TestGuardTable(t *testing.T) {
	policy := peer.Policy{"/self": peer.Self, "/agent": peer.Agent, "/admin": peer.AgentOrAdmin, "/any": peer.Anybody, "/nobody": peer.Nobody}
	host := resolver{err: runtime.ErrNotFound}
	temp, agent := resolver{module: "temp"}, resolver{module: "edgeAgent"}
	for _, c := range []struct {
		name     string
		method   string
		who      resolver
		socket   string
		uid, gid int
		groups   []int
		req      any
		allowed  bool
	}{
		{name: "module for itself", method: "/self", who: temp, socket: "temp", req: named{"temp"}, allowed: true},
		{name: "dollar is stripped", method: "/self", who: resolver{module: "edgeHub"}, socket: "edgeHub", req: named{"$edgeHub"}, allowed: true},
		{name: "one dollar only", method: "/self", who: resolver{module: "edgeHub"}, socket: "edgeHub", req: named{"$$edgeHub"}},
		{name: "module on the shared socket", method: "/self", who: temp, req: named{"temp"}, allowed: true},
		{name: "module for another", method: "/self", who: temp, socket: "temp", req: named{"edgeHub"}},
		{name: "module on another's socket for itself", method: "/self", who: temp, socket: "edgeHub", req: named{"temp"}},
		{name: "module on another's socket for the other", method: "/self", who: temp, socket: "edgeHub", req: named{"edgeHub"}},
		{name: "case counts", method: "/self", who: temp, socket: "temp", req: named{"Temp"}},
		{name: "empty id", method: "/self", who: temp, req: named{""}},
		{name: "request without id", method: "/self", who: temp, req: struct{}{}},
		{name: "agent is not everybody", method: "/self", who: agent, req: named{"temp"}},
		{name: "host root for a module", method: "/self", who: host, req: named{"temp"}},
		{name: "host root for nobody", method: "/self", who: host, req: named{""}},
		{name: "host root on a module's socket", method: "/self", who: host, socket: "temp", req: named{"temp"}},
		{name: "engine fails", method: "/self", who: resolver{err: errors.New("down")}, req: named{"temp"}},
		{name: "engine answers without a name", method: "/self", who: resolver{}, req: named{""}},
		{name: "agent", method: "/agent", who: agent, allowed: true},
		{name: "module is not the agent", method: "/agent", who: temp},
		{name: "host root is not the agent", method: "/agent", who: host},
		{name: "agent reads", method: "/admin", who: agent, allowed: true},
		{name: "host root reads", method: "/admin", who: host, allowed: true},
		{name: "container root is not host root", method: "/admin", who: temp},
		{name: "host user", method: "/admin", who: host, uid: 1000, gid: 1000, groups: []int{1000, 4}},
		{name: "host user of the group", method: "/admin", who: host, uid: 1000, gid: 77, allowed: true},
		{name: "host user with the group", method: "/admin", who: host, uid: 1000, gid: 1000, groups: []int{4, 77}, allowed: true},
		{name: "container user of the group", method: "/admin", who: temp, uid: 1000, gid: 77},
		{name: "engine fails for root", method: "/admin", who: resolver{err: errors.New("down")}},
		{name: "anybody", method: "/any", who: resolver{err: errors.New("down")}, uid: 1000, gid: 1000, allowed: true},
		{name: "nobody", method: "/nobody", who: agent},
		{name: "unlisted method", method: "/other", who: agent},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, _ := accept(t, c.socket)
			caller := *conn.Caller()
			caller.UID, caller.GID, caller.Groups = c.uid, c.gid, c.groups
			g := &peer.Guard{Policy: policy, Resolver: c.who, AdminGroup: 77, Log: slog.New(slog.DiscardHandler)}
			err := g.Check(peer.NewContext(t.Context(), &caller), c.method, c.req)
			if (err == nil) != c.allowed {
				t.Fatalf("got %v, allowed should be %v", err, c.allowed)
			}
			if err != nil && (status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != "forbidden") {
				t.Fatalf("refused with %v", err)
			}
		})
	}
}

func TestGuardWithoutAdminGroupTakesNoGroup(t *testing.T) {
	conn, _ := accept(t, "")
	caller := *conn.Caller()
	caller.UID, caller.GID, caller.Groups = 1000, -1, []int{-1}
	g := &peer.Guard{
		Policy: peer.Policy{"/admin": peer.AgentOrAdmin}, Resolver: resolver{err: runtime.ErrNotFound},
		AdminGroup: -1, Log: slog.New(slog.DiscardHandler),
	}
	if g.Check(peer.NewContext(t.Context(), &caller), "/admin", nil) == nil {
		t.Fatal("allowed")
	}
}

// changing is a resolver whose answer the test changes.
type changing struct{ resolver }

func (c *changing) ModuleOfPid(ctx context.Context, pid int) (runtime.Process, error) {
	return c.resolver.ModuleOfPid(ctx, pid)
}

func TestRequestsCountForTheModuleOrTheUser(t *testing.T) {
	who := &changing{}
	g := &peer.Guard{Resolver: who, Log: slog.New(slog.DiscardHandler)}
	first, _ := accept(t, "temp")
	second, _ := accept(t, "temp")
	uid := fmt.Sprintf("uid %d", os.Getuid())
	for _, c := range []struct {
		name   string
		conn   *peer.Conn
		answer resolver
		want   string
	}{
		{"host process", first, resolver{err: runtime.ErrNotFound}, uid},
		{"engine fails", first, resolver{err: errors.New("down")}, uid},
		{"module without a name", first, resolver{}, uid},
		{"module", first, resolver{module: "temp"}, "module temp"},
		{"module is remembered", first, resolver{err: errors.New("down")}, "module temp"},
		{"another process is not", second, resolver{module: "filter"}, "module filter"},
	} {
		who.resolver = c.answer
		if got := g.Subject(t.Context(), c.conn.Caller()); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestUnknownPeerIsRefusedAndEveryDecisionLogged(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g := &peer.Guard{Policy: peer.Policy{"/any": peer.Anybody, "/self": peer.Self}, Resolver: resolver{module: "temp"}, Log: log}
	if err := g.Check(t.Context(), "/any", nil); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("no peer: %v", err)
	}
	conn, _ := accept(t, "temp")
	ctx := peer.NewContext(t.Context(), conn.Caller())
	if err := g.Check(ctx, "/self", named{"temp"}); err != nil {
		t.Fatal(err)
	}
	if err := g.Check(ctx, "/self", named{"other"}); err == nil {
		t.Fatal("allowed")
	}
	for _, want := range []string{"unknown peer", "api call allowed", "request names another module", fmt.Sprint("pid=", os.Getpid())} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("audit log lacks %q:\n%s", want, &out)
		}
	}
}

func TestOnlyUnixConnectionsAreAccepted(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	if _, err := peer.Accepted(a, "", nil); err == nil {
		t.Fatal("accepted a pipe")
	}
}

func TestWhoWasLetInIsTold(t *testing.T) {
	conn, _ := accept(t, "")
	ctx := peer.NewContext(t.Context(), conn.Caller())
	var told []string
	for _, module := range []string{"edgeAgent", "other"} {
		g := &peer.Guard{
			Policy: peer.Policy{"/m": peer.Agent}, Resolver: resolver{module: module}, Log: slog.New(slog.DiscardHandler),
			Allowed: func(m string) { told = append(told, m) },
		}
		_ = g.Check(ctx, "/m", nil)
	}
	if len(told) != 1 || told[0] != "edgeAgent" {
		t.Errorf("told %q", told)
	}
}
