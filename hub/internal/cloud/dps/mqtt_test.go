package dps_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

const patience = 10 * time.Second

// mqtt serves devices and registrations on one port, as iothub does.
func (w *world) mqtt() (address string) {
	w.t.Helper()
	s, err := mqtt.New(mqtt.Options{Backend: w.hub, Flavor: mqtt.Cloud, TLS: w.https.TLS, Other: w.service, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	return l.Addr().String()
}

func (w *world) dialMQTT(address, id, username, password string, certificates ...tls.Certificate) (paho.Client, error) {
	o := paho.NewClientOptions().AddBroker("ssl://" + address).SetClientID(id).SetUsername(username).SetPassword(password).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience).
		SetTLSConfig(&tls.Config{RootCAs: w.roots, ServerName: host, Certificates: certificates})
	c := paho.NewClient(o)
	token := c.Connect()
	token.WaitTimeout(patience)
	return c, token.Error()
}

func (d *device) username() string {
	return d.scope + "/registrations/" + d.id + "/api-version=2019-03-31&ClientVersion=test%2F1.0"
}

type answer struct{ topic, body string }

// registerMQTT registers as the SDKs do over MQTT.
func (d *device) registerMQTT(address string) rest.RegistrationState {
	t := d.w.t
	t.Helper()
	c, err := d.w.dialMQTT(address, d.id, d.username(), d.token(), d.certificates...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect(100)
	answers := make(chan answer, 4)
	sub := c.Subscribe("$dps/registrations/res/#", 1, func(_ paho.Client, m paho.Message) { answers <- answer{m.Topic(), string(m.Payload())} })
	if !sub.WaitTimeout(patience) || sub.Error() != nil {
		t.Fatal(sub.Error())
	}
	ask := func(topic, body string) answer {
		if p := c.Publish(topic, 1, false, body); !p.WaitTimeout(patience) || p.Error() != nil {
			t.Fatal(p.Error())
		}
		select {
		case a := <-answers:
			return a
		case <-time.After(patience):
			t.Fatal("no answer")
			return answer{}
		}
	}
	a := ask("$dps/registrations/PUT/iotdps-register/?$rid=r-1", `{"registrationId":"`+d.id+`"}`)
	var op rest.RegistrationOperation
	if err := json.Unmarshal([]byte(a.body), &op); err != nil || a.topic != "$dps/registrations/res/202/?$rid=r-1&retry-after=3" || op.OperationID == "" {
		t.Fatalf("%+v", a)
	}
	if a = ask("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+op.OperationID, " "); !strings.HasPrefix(a.topic, "$dps/registrations/res/202/?$rid=2&") {
		t.Errorf("%+v", a)
	}
	d.w.move(2 * time.Second)
	a = ask("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=3&operationId="+op.OperationID, " ")
	if err := json.Unmarshal([]byte(a.body), &op); err != nil || a.topic != "$dps/registrations/res/200/?$rid=3" || op.RegistrationState == nil {
		t.Fatalf("%+v", a)
	}
	if a = ask("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=4&operationId=5.x", " "); a.topic != "$dps/registrations/res/404/?$rid=4" || !strings.Contains(a.body, "404204") {
		t.Errorf("%+v", a)
	}
	if a = ask("$dps/registrations/PUT/iotdps-register/?$rid=5", `{`); a.topic != "$dps/registrations/res/400/?$rid=5" {
		t.Errorf("%+v", a)
	}
	return *op.RegistrationState
}

func TestRegistrationOverMQTT(t *testing.T) {
	w := start(t)
	address := w.mqtt()
	e := w.enroll(rest.Enrollment{RegistrationID: "r", DeviceID: "d"})
	s := w.keyed("r", primary(e.Attestation)).registerMQTT(address)
	if s.Status != rest.RegistrationAssigned || s.DeviceID != "d" || s.AssignedHub != host {
		t.Errorf("%+v", s)
	}
	ca := certtest.New(t, "ca", w.now(), nil)
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "g", EnrollmentTerms: signingCerts(ca.Cert)})
	if s = w.certified("c", ca.Pair(t, "c", w.now())).registerMQTT(address); s.X509 == nil || s.X509.EnrollmentGroupID != "g" {
		t.Errorf("%+v", s)
	}
	// The device goes on at the same port.
	token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity("d")), w.now().Add(time.Hour), "", w.keyed("r", primary(e.Attestation)).key.Sign)
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.dialMQTT(address, "d", host+"/d/?api-version=2021-04-12", token)
	if err != nil {
		t.Fatal(err)
	}
	c.Disconnect(100)
	wrong := w.keyed("r", primary(w.enroll(rest.Enrollment{RegistrationID: "other"}).Attestation))
	good := w.keyed("r", primary(e.Attestation))
	for name, l := range map[string][3]string{
		"wrong key":         {"r", wrong.username(), wrong.token()},
		"nothing to show":   {"r", good.username(), ""},
		"another client id": {"q", good.username(), good.token()},
		"no version":        {"r", scope + "/registrations/r/", good.token()},
		"another scope":     {"r", "0neX/registrations/r/api-version=2019-03-31", good.token()},
		"no id":             {"r", scope + "/registrations/", good.token()},
	} {
		if c, err := w.dialMQTT(address, l[0], l[1], l[2]); err == nil {
			t.Errorf("%s: connected", name)
			c.Disconnect(0)
		}
	}
}

func TestMQTTOnlyForRegistrations(t *testing.T) {
	w := start(t)
	address := w.mqtt()
	e := w.enroll(rest.Enrollment{RegistrationID: "r"})
	d := w.keyed("r", primary(e.Attestation))
	for _, topic := range []string{"devices/r/messages/events/", "$dps/registrations/PUT/iotdps-register/?$rid=a$b", "$dps/registrations/PUT/iotdps-register/?$rid=%zz"} {
		c, err := w.dialMQTT(address, "r", d.username(), d.token())
		if err != nil {
			t.Fatal(err)
		}
		sub := c.Subscribe("#", 1, nil)
		if sub.WaitTimeout(patience); sub.(*paho.SubscribeToken).Result()["#"] != 0x80 {
			t.Error("subscribed to everything")
		}
		c.Publish(topic, 0, false, "x")
		for deadline := time.Now().Add(patience); c.IsConnected(); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: still connected", topic)
			}
			time.Sleep(5 * time.Millisecond)
		}
		c.Disconnect(0)
	}
}

// FuzzMQTT sends bytes behind a good start of a connection.
func FuzzMQTT(f *testing.F) {
	f.Add([]byte("\x82\x1d\x00\x01\x00\x18$dps/registrations/res/#\x01"))
	f.Add([]byte("\x30\x05\x00\x03abc"))
	f.Add([]byte("\xc0\x00"))
	f.Add([]byte("\x10\xff\xff\xff\x7f"))
	w := start(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.service.ServeMQTT(t.Context(), server, []*x509.Certificate{})
			server.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		if len(raw) > 0 && raw[0] == 'c' { // also as what follows a CONNECT packet
			raw = append(connectBytes("r", scope+"/registrations/r/api-version=1"), raw[1:]...)
		}
		_ = client.SetDeadline(time.Now().Add(patience))
		_, _ = client.Write(raw)
		client.Close()
		<-done
	})
}

func connectBytes(id, name string) []byte {
	sized := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	body := append(sized("MQTT"), 4, 1<<7|2, 0, 60)
	body = append(append(body, sized(id)...), sized(name)...)
	return append([]byte{0x10, byte(len(body))}, body...)
}
