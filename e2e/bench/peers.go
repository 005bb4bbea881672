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
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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
	publisher(i int) mqttload.Options
	topic(i int) string
}

// edgehub routes from every publisher, a module, to the input of another module.
type edgehub struct {
	rig  *hubrig.Rig
	hub  *hubrig.Process
	text string
}

const sinkModule = "sink"

func moduleName(i int) string { return fmt.Sprintf("p%d", i) }

func startEdgehub(ctx context.Context, dir, bin string, publishers int) (*edgehub, error) {
	modules := []string{sinkModule}
	for i := range publishers {
		modules = append(modules, moduleName(i))
	}
	rig, err := hubrig.New(ctx, hubrig.Options{
		Dir: filepath.Join(dir, "edgehub"), Bin: bin, Modules: modules,
		Routes: map[string]string{"r": `FROM /messages/* WHERE kind = "telemetry" INTO BrokeredEndpoint("/modules/sink/inputs/in")`},
	})
	e := &edgehub{rig: rig, text: "on disk, fsynced"}
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

func (e *edgehub) name() string                 { return "edgehub" }
func (e *edgehub) policy() string               { return e.text }
func (e *edgehub) process() *hubrig.Process     { return e.hub }
func (e *edgehub) subscriber() mqttload.Options { return e.rig.Login(sinkModule) }
func (e *edgehub) filter() string               { return hubrig.Inputs(sinkModule) }
func (e *edgehub) topic(i int) string           { return hubrig.Output(moduleName(i), "out") + "&kind=telemetry" }
func (e *edgehub) publisher(i int) mqttload.Options {
	return e.rig.Login(moduleName(i))
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
func (b *broker) topic(i int) string       { return fmt.Sprintf("bench/%d", i) }
func (b *broker) subscriber() mqttload.Options {
	return mqttload.Options{Addr: b.address, TLS: b.tls, ClientID: "sub"}
}
func (b *broker) publisher(i int) mqttload.Options {
	return mqttload.Options{Addr: b.address, TLS: b.tls, ClientID: fmt.Sprintf("pub%d", i)}
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
