package upstream_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// benchCloud is set in the process that is the cloud of a benchmark, so that only
// the clients' memory is measured.
const benchCloud = "BREAKWATER_TEST_BENCH_CLOUD"

// TestBenchmarkCloud serves a cloud on the loopback until its input ends. It is no
// test: BenchmarkUpstream starts it.
func TestBenchmarkCloud(t *testing.T) {
	if os.Getenv(benchCloud) == "" {
		return
	}
	c := newCloud(t, client.MQTT)
	c.forgetful = true
	var ends []string
	for _, serve := range []func(net.Conn){c.serveMQTT, c.serveAMQP} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ends = append(ends, l.Addr().String())
		c.work.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				c.work.Go(func() { c.keep(conn, serve) })
			}
		})
		defer l.Close()
	}
	fmt.Println("cloud", ends[0], ends[1], base64.StdEncoding.EncodeToString(c.tls.Certificates[0].Certificate[0]))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// remote is a cloud in another process.
type remote struct {
	mqtt, amqp string
	roots      *x509.CertPool
}

func startRemote(b *testing.B) remote {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchmarkCloud$")
	cmd.Env = append(os.Environ(), benchCloud+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	var r remote
	var encoded string
	if _, err := fmt.Sscanf(line, "cloud %s %s %s", &r.mqtt, &r.amqp, &encoded); err != nil {
		b.Fatalf("%q: %v", line, err)
	}
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		b.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	r.roots = x509.NewCertPool()
	r.roots.AddCert(cert)
	return r
}

func (r remote) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to := r.mqtt
	if strings.HasSuffix(address, ":5671") {
		to = r.amqp
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// BenchmarkUpstream sends messages of 256 bytes, 64 of each identity under way, over
// MQTT with a connection for each identity and over AMQP with one for all. Each
// identity has the subscriptions of a module. Memory is that of the clients when all
// are connected and idle: heap and stacks in use, and what is resident in addition.
func BenchmarkUpstream(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		for _, p := range []client.Protocol{client.MQTT, client.AMQP} {
			b.Run(fmt.Sprintf("%s/identities=%d", p, n), func(b *testing.B) { benchmarkUpstream(b, p, n) })
		}
	}
}

func benchmarkUpstream(b *testing.B, p client.Protocol, n int) {
	r := startRemote(b)
	used, resident := memory(b)
	dial, err := upstream.ByClient(upstream.ClientOptions{
		Base:    client.Options{Protocol: p, HubName: hubName, RootCAs: r.roots, Dial: r.dial, Signer: client.KeySigner(key), ConnectTimeout: time.Minute},
		Self:    self,
		Chain:   func(id iothub.Identity) (string, bool) { return id.String() + ";edge", true },
		Product: func(iothub.Identity) string { return "bench" },
	})
	if err != nil {
		b.Fatal(err)
	}
	pool := upstream.New(dial, &listener{}, upstream.Options{Logger: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- pool.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	ids := make([]iothub.Identity, n)
	for i := range ids {
		ids[i] = iothub.DeviceIdentity(fmt.Sprint("d", i))
		if err := pool.Subscribe(ids[i], upstream.Wants{Desired: true, Methods: true}); err != nil {
			b.Fatal(err)
		}
	}
	for _, id := range ids {
		if !eventually(func() bool { return pool.Up(id) }) {
			b.Fatalf("%s is not up", id)
		}
	}
	usedUp, residentUp := memory(b)

	body := strings.Repeat("x", 256)
	window := make(chan struct{}, 64*n)
	var under sync.WaitGroup
	b.ResetTimer()
	for i := range b.N {
		window <- struct{}{}
		under.Add(1)
		pool.Send(from(ids[i%n], body), upstream.Lane{First: i < n}, func(err error) {
			if err != nil {
				b.Error(err)
			}
			<-window
			under.Done()
		})
	}
	under.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(usedUp-used)/float64(n)/1024, "KiB-used/identity")
	b.ReportMetric(float64(residentUp-resident)/float64(n)/1024, "KiB-resident/identity")
}

// memory returns the bytes of heap and stacks in use, and those that are resident.
func memory(b *testing.B) (used, resident int64) {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return int64(m.HeapInuse + m.StackInuse), kib << 10
}
