package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/server"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

const (
	host     = "hub.test"
	childDir = "BREAKWATER_TEST_HUB_DIR"
	patience = 30 * time.Second
)

// TestMain runs a hub instead of the tests when it is the child of one.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := server.Run(ctx, config(dir, func(e server.Endpoints) { fmt.Println("ready", e.HTTPS, e.MQTT) }))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

func config(dir string, ready func(server.Endpoints)) server.Config {
	return server.Config{Data: dir, HostName: host, Names: []string{"second.test"}, Address: "127.0.0.1", Ready: ready}
}

// running is a hub, in this process or a child.
type running struct {
	t           *testing.T
	dir         string
	https, mqtt string
	amqp        string // in this process only
}

func (r *running) client() *rest.Client {
	r.t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.dir, server.ConnectionStringFile))
	if err != nil {
		r.t.Fatal(err)
	}
	login, err := connstr.Parse(string(raw))
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := rest.New(rest.Options{HubName: host, RootCAs: r.roots(), Attempts: 1,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.https)
		},
		Authorize: func(context.Context) (string, error) {
			return sas.New(sas.HubResource(login.HostName), time.Now().Add(time.Hour), login.SharedAccessKeyName, login.SharedAccessKey.Sign)
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func (r *running) roots() *x509.CertPool {
	r.t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.dir, "root.pem"))
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	return roots
}

func (r *running) device(id string) rest.Device {
	r.t.Helper()
	d, err := r.client().PutDevice(r.t.Context(), rest.Device{DeviceID: id}, rest.MustNotExist)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// connect connects a device with a client that is not ours.
func (r *running) connect(d rest.Device, lost func(), more ...func(*paho.ClientOptions)) paho.Client {
	r.t.Helper()
	key, err := sas.ParseKey(d.Authentication.SymmetricKey.PrimaryKey.Reveal())
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity(d.DeviceID)), time.Now().Add(time.Hour), "", key.Sign)
	if err != nil {
		r.t.Fatal(err)
	}
	o := paho.NewClientOptions().AddBroker("ssl://" + r.mqtt).SetClientID(d.DeviceID).
		SetUsername(host + "/" + d.DeviceID + "/?api-version=2021-04-12").SetPassword(token).SetProtocolVersion(4).
		SetTLSConfig(&tls.Config{RootCAs: r.roots(), ServerName: host}).SetAutoReconnect(false).
		SetConnectionLostHandler(func(paho.Client, error) { lost() })
	for _, f := range more {
		f(o)
	}
	c := paho.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		r.t.Fatalf("connect: %v", token.Error())
	}
	return c
}

// startChild runs a hub in a process of its own.
func startChild(t *testing.T, dir string) (*running, *exec.Cmd) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	f := strings.Fields(line)
	if err != nil || len(f) != 3 {
		t.Fatalf("child said %q, %v", line, err)
	}
	return &running{t: t, dir: dir, https: f[1], mqtt: f[2]}, cmd
}

// TestKilledHubLosesNoAcknowledgedEvent kills the hub while devices send, and looks
// whether every message with a PUBACK is there after the restart, in order.
func TestKilledHubLosesNoAcknowledgedEvent(t *testing.T) {
	dir := t.TempDir()
	hub, cmd := startChild(t, dir)
	const publishers = 4
	var mu sync.Mutex
	acked := map[string]int{} // device -> messages with PUBACK, from 0 without a gap
	var wg sync.WaitGroup
	enough := make(chan struct{})
	var once sync.Once
	for i := range publishers {
		id := fmt.Sprint("dev", i)
		gone := make(chan struct{})
		c := hub.connect(hub.device(id), func() { close(gone) })
		wg.Go(func() {
			for n := 0; ; n++ {
				token := c.Publish("devices/"+id+"/messages/events/", 1, false, fmt.Sprint(n))
				select {
				case <-token.Done():
				case <-gone:
				}
				if token.Error() != nil || !c.IsConnected() {
					return
				}
				mu.Lock()
				acked[id] = n + 1
				if acked[id] > 200 {
					once.Do(func() { close(enough) })
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(patience / 3): // a slow disk has taken fewer by then
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	wg.Wait()
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}

	hub, cmd = startChild(t, dir)
	stored := map[string]int{}
	err := hub.client().Events(t.Context(), rest.EventQuery{Since: "beginning"}, func(line []byte) error {
		var e rest.EventLine
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if want := fmt.Sprintf("%q", fmt.Sprint(stored[e.Event.Origin])); string(e.Event.Payload) != want {
			return fmt.Errorf("%s: %s where %s was expected", e.Event.Origin, e.Event.Payload, want)
		}
		stored[e.Event.Origin]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range acked {
		if stored[id] < n {
			t.Errorf("%s: %d acknowledged, %d stored", id, n, stored[id])
		}
	}
	// What was registered still works, and the hub ends in order.
	list, err := hub.client().ListDevices(t.Context(), 0)
	if err != nil || len(list) != publishers {
		t.Fatalf("%d devices, %v", len(list), err)
	}
	c := hub.connect(list[0], func() {})
	c.Disconnect(0)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit after SIGTERM: %v", err)
	}
}

func startHere(t *testing.T, dir string) (*running, context.CancelFunc, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan server.Endpoints, 1)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, config(dir, func(e server.Endpoints) { ready <- e })) }()
	select {
	case e := <-ready:
		return &running{t: t, dir: dir, https: e.HTTPS.String(), mqtt: e.MQTT.String(), amqp: e.AMQP.String()}, cancel, ended
	case err := <-ended:
		cancel()
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	return nil, nil, nil
}

func TestHubStopsInOrder(t *testing.T) {
	hub, cancel, ended := startHere(t, t.TempDir())
	lost := make(chan struct{})
	hub.connect(hub.device("d"), func() { close(lost) })
	events := make(chan error, 1)
	c := hub.client()
	go func() {
		events <- c.Events(context.Background(), rest.EventQuery{Follow: true}, func([]byte) error { return nil })
	}()
	begin := time.Now()
	cancel()
	select {
	case err := <-ended:
		if err != nil || time.Since(begin) > 4*time.Second {
			t.Errorf("ended after %v: %v", time.Since(begin), err)
		}
	case <-time.After(patience):
		t.Fatal("did not end")
	}
	<-lost
	if err := <-events; err == nil {
		t.Error("the stream ended as if complete")
	}
}

func TestStartsThatFail(t *testing.T) {
	dir := t.TempDir()
	hub, cancel, ended := startHere(t, dir)
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	_, port, err := net.SplitHostPort(hub.https)
	if err != nil {
		t.Fatal(err)
	}
	var used int
	if _, err := fmt.Sscan(port, &used); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*server.Config)) server.Config {
		c := config(t.TempDir(), func(server.Endpoints) { t.Error("ready") })
		f(&c)
		return c
	}
	for name, c := range map[string]server.Config{
		"the same directory twice": change(func(c *server.Config) { c.Data = dir }),
		"a port in use":            change(func(c *server.Config) { c.HTTPSPort = used }),
		"the second port in use":   change(func(c *server.Config) { c.MQTTPort = used }),
		"the third port in use":    change(func(c *server.Config) { c.AMQPPort = used }),
		"no host name":             change(func(c *server.Config) { c.HostName = "" }),
		"a bad host name":          change(func(c *server.Config) { c.HostName = "a/b" }),
		"a bad address":            change(func(c *server.Config) { c.Address = "localhost" }),
		"a bad name":               change(func(c *server.Config) { c.Names = []string{"-"} }),
		"a bad port":               change(func(c *server.Config) { c.MQTTPort = 70000 }),
		"no directory":             change(func(c *server.Config) { c.Data = "" }),
	} {
		if err := server.Run(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFilesOfTheDataDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	_, cancel, ended := startHere(t, dir)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, "db": 0o700, "root.key": 0o600, "server.key": 0o600, "policies.json": 0o600, server.ConnectionStringFile: 0o600, "root.pem": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode().Perm(), err)
		}
	}
}

func TestMQTTOverWebSockets(t *testing.T) {
	hub, cancel, ended := startHere(t, t.TempDir())
	d := hub.device("d")
	key, err := sas.ParseKey(d.Authentication.SymmetricKey.PrimaryKey.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity("d")), time.Now().Add(time.Hour), "", key.Sign)
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan struct{})
	o := paho.NewClientOptions().AddBroker("wss://" + hub.https + "/$iothub/websocket").SetClientID("d").
		SetUsername(host + "/d/?api-version=2021-04-12").SetPassword(token).SetProtocolVersion(4).
		SetTLSConfig(&tls.Config{RootCAs: hub.roots(), ServerName: host}).SetAutoReconnect(false).
		SetConnectionLostHandler(func(paho.Client, error) { close(lost) })
	c := paho.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	if token := c.Publish("devices/d/messages/events/", 1, false, "x"); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	n := 0
	if err := hub.client().Events(t.Context(), rest.EventQuery{Since: "beginning"}, func([]byte) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d events, %v", n, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	select {
	case <-lost:
	case <-time.After(patience):
		t.Error("the connection outlived the hub")
	}
}

func TestSubscriptionsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	hub, cancel, ended := startHere(t, dir)
	d := hub.device("d")
	persistent := func(r *running, resumed *bool) (paho.Client, chan string) {
		key, err := sas.ParseKey(d.Authentication.SymmetricKey.PrimaryKey.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity("d")), time.Now().Add(time.Hour), "", key.Sign)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 4)
		o := paho.NewClientOptions().AddBroker("ssl://" + r.mqtt).SetClientID("d").SetCleanSession(false).
			SetUsername(host + "/d/?api-version=2021-04-12").SetPassword(token).SetProtocolVersion(4).
			SetTLSConfig(&tls.Config{RootCAs: r.roots(), ServerName: host}).SetAutoReconnect(false).
			SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) })
		c := paho.NewClient(o)
		connect := c.Connect()
		if !connect.WaitTimeout(patience) || connect.Error() != nil {
			t.Fatal(connect.Error())
		}
		*resumed = connect.(*paho.ConnectToken).SessionPresent()
		return c, got
	}
	var resumed bool
	c, _ := persistent(hub, &resumed)
	if token := c.Subscribe("$iothub/twin/PATCH/properties/desired/#", 0, nil); !token.WaitTimeout(patience) || token.Error() != nil || resumed {
		t.Fatalf("%v, resumed %v", token.Error(), resumed)
	}
	c.Disconnect(100)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	hub, cancel, ended = startHere(t, dir)
	c, got := persistent(hub, &resumed)
	if !resumed {
		t.Error("the session was lost")
	}
	if _, err := hub.client().PatchTwin(t.Context(), iothub.DeviceIdentity("d"), rest.DesiredPatch([]byte(`{"a":1}`)), ""); err != nil {
		t.Error(err)
	}
	select {
	case p := <-got:
		if p != `{"$version":2,"a":1}` {
			t.Error(p)
		}
	case <-time.After(patience):
		t.Error("not told")
	}
	c.Disconnect(100)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
