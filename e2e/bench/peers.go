package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/amqpload"
	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// peer is a server under test.
type peer interface {
	name() string
	policy() string // what an acknowledgement means
	process() *hubrig.Process
	subscriber() mqttload.Options
	filter() string
	publisher(ctx context.Context, i int) (sender, error)
}

// overMQTT publishes to one topic.
type overMQTT struct {
	*mqttload.Client
	topic string
}

func (o overMQTT) send(payload []byte, acked func()) error { return o.Publish(o.topic, payload, acked) }

func dialMQTT(ctx context.Context, o mqttload.Options, topic string) (sender, error) {
	c, err := mqttload.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	return overMQTT{c, topic}, nil
}

// overAMQP sends messages with the same properties as the topic of a module says.
type overAMQP struct{ *amqpload.Client }

func (o overAMQP) send(payload []byte, acked func()) error {
	return o.Send(amqpload.Encode(payload, "iothub-outputname", outputName, "kind", "telemetry"), acked)
}

// edgehub routes from every publisher, a module, to the input of another module.
type edgehub struct {
	title string
	rig   *hubrig.Rig
	hub   *hubrig.Process
}

const (
	sinkModule = "sink"
	outputName = "out"
)

func moduleName(i int) string { return fmt.Sprintf("p%d", i) }

// benchRoutes are so many routes, each of which has a condition on every message.
// One of them holds.
func benchRoutes(n int) map[string]string {
	routes := map[string]string{"r": `FROM /messages/* WHERE kind = "telemetry" INTO BrokeredEndpoint("/modules/sink/inputs/in")`}
	for i := range n - 1 {
		routes[fmt.Sprintf("r%d", i)] = fmt.Sprintf(`FROM /messages/* WHERE kind = "other-%d" INTO BrokeredEndpoint("/modules/sink/inputs/in%d")`, i, i)
	}
	return routes
}

// newRig makes the world of an edgehub; what is returned must be closed also after an
// error.
func newRig(ctx context.Context, dir, bin string, publishers, routes int) (*hubrig.Rig, error) {
	modules := []string{sinkModule}
	for i := range publishers {
		modules = append(modules, moduleName(i))
	}
	return hubrig.New(ctx, hubrig.Options{Dir: dir, Bin: bin, Modules: modules, Routes: benchRoutes(routes)})
}

func startEdgehub(ctx context.Context, title, dir, bin string, publishers, routes int) (*edgehub, error) {
	rig, err := newRig(ctx, dir, bin, publishers, routes)
	e := &edgehub{title: title, rig: rig}
	if err != nil {
		return e, err
	}
	storage := filepath.Join(dir, "storage")
	if err := os.MkdirAll(storage, 0o700); err != nil {
		return e, err
	}
	e.hub, err = rig.StartHub(storage)
	return e, err
}

func (e *edgehub) close() error {
	var err error
	if e.hub != nil {
		err = e.hub.Stop(20 * time.Second)
	}
	return errors.Join(err, e.rig.Close())
}

func (e *edgehub) name() string                 { return e.title }
func (e *edgehub) policy() string               { return "on disk, fsynced" }
func (e *edgehub) process() *hubrig.Process     { return e.hub }
func (e *edgehub) subscriber() mqttload.Options { return e.rig.Login(sinkModule) }
func (e *edgehub) filter() string               { return hubrig.Inputs(sinkModule) }
func (e *edgehub) publisher(ctx context.Context, i int) (sender, error) {
	return dialMQTT(ctx, e.rig.Login(moduleName(i)), hubrig.Output(moduleName(i), outputName)+"&kind=telemetry")
}

// throughAMQP is an edgehub whose publishers come over AMQP.
type throughAMQP struct{ *edgehub }

func (throughAMQP) name() string { return "edgehub, AMQP" }
func (e throughAMQP) publisher(ctx context.Context, i int) (sender, error) {
	c, err := amqpload.Dial(ctx, e.rig.LoginAMQP(moduleName(i)))
	if err != nil {
		return nil, err
	}
	return overAMQP{c}, nil
}

// broker is a plain MQTT server.
type broker struct {
	title, text string
	p           *hubrig.Process
	address     string
	tls         *tls.Config
}

func (b *broker) name() string             { return b.title }
func (b *broker) policy() string           { return b.text }
func (b *broker) process() *hubrig.Process { return b.p }
func (b *broker) filter() string           { return "bench/#" }
func (b *broker) subscriber() mqttload.Options {
	return mqttload.Options{Addr: b.address, TLS: b.tls, ClientID: "sub"}
}
func (b *broker) publisher(ctx context.Context, i int) (sender, error) {
	o := mqttload.Options{Addr: b.address, TLS: b.tls, ClientID: fmt.Sprintf("pub%d", i)}
	return dialMQTT(ctx, o, fmt.Sprintf("bench/%d", i))
}

const (
	mosquittoConfig = `listener {port} 127.0.0.1
certfile {cert}
keyfile {key}
allow_anonymous true
persistence true
persistence_location {data}/
max_inflight_messages 0
max_queued_messages 0
user root
`
	natsConfig = `server_name: bench
host: 127.0.0.1
port: {other}
jetstream { store_dir: "{data}", sync_interval: always }
mqtt {
  host: 127.0.0.1
  port: {port}
  max_ack_pending: 1024
  tls { cert_file: "{cert}", key_file: "{key}" }
}
`
)

// startBrokers starts the others.
func startBrokers(dir, bin string) ([]*broker, error) {
	cert, key, roots, err := certificate(dir)
	if err != nil {
		return nil, err
	}
	t := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	var list []*broker
	add := func(title, text, path string, args func(port int) ([]string, error)) error {
		port, err := freePort()
		if err != nil {
			return err
		}
		a, err := args(port)
		if err != nil {
			return err
		}
		p, err := hubrig.Start(filepath.Join(dir, title+".log"), path, a...)
		if err != nil {
			return err
		}
		list = append(list, &broker{title: title, text: text, p: p, address: fmt.Sprintf("127.0.0.1:%d", port), tls: t})
		return nil
	}
	config := func(title, template string) func(port int) ([]string, error) {
		return func(port int) ([]string, error) {
			data := filepath.Join(dir, title)
			if err := os.MkdirAll(data, 0o700); err != nil {
				return nil, err
			}
			other, err := freePort()
			if err != nil {
				return nil, err
			}
			text := strings.NewReplacer("{port}", strconv.Itoa(port), "{cert}", cert, "{key}", key, "{data}", data,
				"{other}", strconv.Itoa(other)).Replace(template)
			file := filepath.Join(dir, title+".conf")
			return []string{"-c", file}, os.WriteFile(file, []byte(text), 0o600)
		}
	}
	if err := add("mochi", "in memory", filepath.Join(bin, "peers", "mochi"), func(port int) ([]string, error) {
		return []string{"-address", fmt.Sprintf("127.0.0.1:%d", port), "-cert", cert, "-key", key}, nil
	}); err != nil {
		return list, err
	}
	if err := add("mosquitto", "in memory, saved every 30 min (persistence true)", "/usr/sbin/mosquitto",
		config("mosquitto", mosquittoConfig)); err != nil {
		return list, err
	}
	return list, add("nats", "on disk, sync_interval: always", filepath.Join(bin, "peers", "nats-server"),
		config("nats", natsConfig))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// certificate makes one for localhost, in files.
func certificate(dir string) (cert, key string, roots *x509.CertPool, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return "", "", nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return "", "", nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", "", nil, err
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return "", "", nil, err
	}
	return cert, key, roots, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)
}
