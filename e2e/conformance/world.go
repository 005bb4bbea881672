package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
)

// The hubs, as the table names them.
const (
	hubCloud = "iothub"
	hubEdge  = "edgehub"
	hubNone  = "engine" // the AMQP server alone
)

var hubs = []string{hubCloud, hubEdge}

// Ports of both hubs.
const (
	portMQTT  = "8883"
	portAMQP  = "5671"
	portHTTPS = "443"
)

// world is both hubs, and who may use them.
type world struct {
	o       Options
	rig     *hubrig.Rig
	edge    *hubrig.Process
	storage string
	scope   string // of the edge device
	root    map[string]string
	roots   map[string]*x509.CertPool
	ledger  *ledger
	report  *report

	canaries, hostiles map[string]*login // by hub
	peers              map[string]*login // of generic clients, by "client hub"
}

// Modules of the edge device: one for each transport of the stock SDK, and one for
// each check that needs one.
var modules = []string{"m-mqtt", "m-mqtt-ws", "m-amqp", "m-amqp-ws", "m-paho", "m-proton", "m-goamqp", "m-mosquitto", "m-uamqp", "m-hostile", "canary"}

// output is what modules send to the cloud by, loop what comes back to themselves.
const output = "up"

func routes() map[string]string {
	list := map[string]string{
		"leafs": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
	}
	for _, m := range modules {
		list["up-"+m] = fmt.Sprintf("FROM /messages/modules/%s/outputs/%s INTO $upstream", m, output)
		list["loop-"+m] = fmt.Sprintf(`FROM /messages/modules/%s/outputs/loop INTO BrokeredEndpoint("/modules/%s/inputs/in")`, m, m)
	}
	return list
}

func newWorld(ctx context.Context, o Options) (*world, error) {
	w := &world{o: o, storage: filepath.Join(o.Dir, "storage"), ledger: newLedger(), report: new(report),
		root: make(map[string]string), roots: make(map[string]*x509.CertPool)}
	if err := os.MkdirAll(w.storage, 0o700); err != nil {
		return w, err
	}
	var err error
	w.rig, err = hubrig.New(ctx, hubrig.Options{
		Dir: o.Dir, Bin: o.Bin, Modules: modules, Routes: routes(), Say: o.Say, CloudLogLevel: "info",
	})
	if err != nil {
		return w, err
	}
	w.root[hubCloud] = w.rig.CloudRoot()
	if w.root[hubEdge], err = w.rig.WriteEdgeRoot(); err != nil {
		return w, err
	}
	for hub, file := range w.root {
		raw, err := os.ReadFile(file)
		if err != nil {
			return w, err
		}
		w.roots[hub] = x509.NewCertPool()
		w.roots[hub].AppendCertsFromPEM(raw)
	}
	var edge struct {
		DeviceScope string `json:"deviceScope"`
	}
	if err := w.rig.Get(ctx, "devices/"+hubrig.EdgeID, &edge); err != nil {
		return w, err
	}
	w.scope = edge.DeviceScope
	return w, w.rig.Monitor(w.ledger.add)
}

// startEdge starts edgehub, once all leaf devices are registered: it learns of those
// that come later at its own pace.
func (w *world) startEdge(ctx context.Context) error {
	var err error
	w.edge, err = w.rig.StartHub(w.storage, "MaxConnectedClients=20000")
	if err != nil {
		return err
	}
	for _, port := range []string{portMQTT, portAMQP, portHTTPS} {
		if err := w.waitPort(ctx, hubEdge, port); err != nil {
			return err
		}
	}
	return nil
}

// startLimit is how long a hub may take until it takes clients.
const startLimit = 30 * time.Second

func (w *world) waitPort(ctx context.Context, hub, port string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(w.address(hub), port))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-w.process(hub).Done():
			return fmt.Errorf("%s ended while starting: %w", hub, w.process(hub).Err())
		case <-ctx.Done():
			return fmt.Errorf("port %s of %s did not open: %w", port, hub, err)
		}
	}
}

// process is the program of a hub.
func (w *world) process(hub string) *hubrig.Process {
	if hub == hubEdge {
		return w.edge
	}
	return w.rig.Cloud()
}

func (w *world) address(hub string) string {
	if hub == hubEdge {
		return w.rig.EdgeAddress()
	}
	return w.rig.CloudAddress()
}

// restart kills a hub and starts it anew.
func (w *world) restart(ctx context.Context, hub string) error {
	if hub == hubCloud {
		return w.rig.RestartCloud(ctx)
	}
	w.edge.Kill()
	return w.startEdge(ctx)
}

func (w *world) close() error {
	if w.edge != nil {
		w.edge.Kill()
	}
	if w.rig == nil {
		return nil
	}
	return w.rig.Close()
}

// tls is the configuration of a client of a hub.
func (w *world) tls(hub string) *tls.Config {
	return &tls.Config{RootCAs: w.roots[hub], ServerName: w.address(hub), MinVersion: tls.VersionTLS12}
}

// login is an identity that may log in to a hub.
type login struct {
	device, module string
	key            []byte
	resource       string // for tokens
	connection     string // connection string, by way of the hub it is for
}

func (l *login) id() string {
	if l.module != "" {
		return l.device + "/" + l.module
	}
	return l.device
}

// path is what addresses of AMQP and of the REST API begin with.
func (l *login) path() string {
	if l.module != "" {
		return "/devices/" + l.device + "/modules/" + l.module
	}
	return "/devices/" + l.device
}

func (l *login) token(expiry time.Time) string { return hubrig.Token(l.resource, l.key, expiry) }

func newKey() []byte {
	key := make([]byte, 32)
	rand.Read(key) //nolint:errcheck // never fails (crypto/rand)
	return key
}

// device registers a device for a hub: for edgehub it is a leaf below the edge
// device.
func (w *world) device(ctx context.Context, hub, id string) (*login, error) {
	l := &login{device: id, key: newKey(), resource: w.rig.CloudAddress() + "/devices/" + id}
	doc := map[string]any{"deviceId": id, "status": "enabled", "authentication": hubrig.SymmetricKey(l.key)}
	l.connection = fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", w.rig.CloudAddress(), id, base64.StdEncoding.EncodeToString(l.key))
	w.place(hub, doc, l)
	return l, w.rig.Put(ctx, "devices/"+id, "", doc, nil)
}

// place puts a device where clients of the hub are.
func (w *world) place(hub string, doc map[string]any, l *login) {
	if hub == hubEdge {
		doc["deviceScope"], doc["parentScopes"] = w.scope, []string{w.scope}
		l.connection += ";GatewayHostName=" + w.rig.EdgeAddress()
	}
}

// cloudModule registers a module of a device that is not an edge device.
func (w *world) cloudModule(ctx context.Context, device, id string) (*login, error) {
	l := &login{device: device, module: id, key: newKey(), resource: w.rig.CloudAddress() + "/devices/" + device + "/modules/" + id}
	l.connection = fmt.Sprintf("HostName=%s;DeviceId=%s;ModuleId=%s;SharedAccessKey=%s", w.rig.CloudAddress(), device, id, base64.StdEncoding.EncodeToString(l.key))
	return l, w.rig.Put(ctx, "devices/"+device+"/modules/"+id, "", map[string]any{
		"deviceId": device, "moduleId": id, "authentication": hubrig.SymmetricKey(l.key),
	}, nil)
}

// edgeModule is a module of the edge device.
func (w *world) edgeModule(id string) *login {
	return &login{device: hubrig.EdgeID, module: id, key: w.rig.ModuleKey(id), connection: w.rig.ModuleConnection(id),
		resource: w.rig.CloudAddress() + "/devices/" + hubrig.EdgeID + "/modules/" + id}
}

// registerOwn registers the identities that the checks of this program use.
func (w *world) registerOwn(ctx context.Context) error {
	w.canaries = map[string]*login{hubEdge: w.edgeModule("canary")}
	w.hostiles = map[string]*login{hubEdge: w.edgeModule("m-hostile")}
	var err1, err2 error
	w.canaries[hubCloud], err1 = w.device(ctx, hubCloud, "canary")
	w.hostiles[hubCloud], err2 = w.device(ctx, hubCloud, "hostile")
	w.peers = make(map[string]*login)
	errs := []error{err1, err2}
	for client, module := range map[string]string{"go-amqp": "m-goamqp", "paho": "m-paho", "proton": "m-proton", "uamqp": "m-uamqp", "mosquitto": "m-mosquitto"} {
		cloud, err := w.device(ctx, hubCloud, "peer-"+client)
		w.peers[client+" "+hubCloud], w.peers[client+" "+hubEdge] = cloud, w.edgeModule(module)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// certified is a device that authenticates by a certificate.
type certified struct {
	login
	cert, key string // files
}

// certifiedDevice registers a device by the thumbprint of a certificate that it makes.
func (w *world) certifiedDevice(ctx context.Context, hub, id string) (*certified, error) {
	der, key, err := selfSigned(id)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	print := hex.EncodeToString(sum[:])
	c := &certified{login: login{device: id}, cert: filepath.Join(w.o.Dir, id+".pem"), key: filepath.Join(w.o.Dir, id+".key")}
	c.connection = fmt.Sprintf("HostName=%s;DeviceId=%s;x509=true", w.rig.CloudAddress(), id)
	doc := map[string]any{"deviceId": id, "status": "enabled", "authentication": map[string]any{
		"type": "selfSigned", "x509Thumbprint": map[string]string{"primaryThumbprint": print, "secondaryThumbprint": print},
	}}
	w.place(hub, doc, &c.login)
	if hub == hubEdge { // with a certificate the SDK knows no gateway: it has to be the hub
		c.connection = fmt.Sprintf("HostName=%s;DeviceId=%s;x509=true", w.rig.EdgeAddress(), id)
	}
	return c, errors.Join(
		os.WriteFile(c.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(c.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
		w.rig.Put(ctx, "devices/"+id, "", doc, nil))
}

func selfSigned(name string) (der, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, k.Public(), k); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(k)
	return der, key, err
}
