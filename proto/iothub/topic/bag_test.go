package topic_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"pgregory.net/rapid"
)

func prop(name, value string) iothub.Property { return iothub.Property{Name: name, Value: value} }
func null(name string) iothub.Property        { return iothub.Property{Name: name, Null: true} }

func TestDecodeBag(t *testing.T) {
	type list = iothub.Properties
	tests := []struct {
		name, bag  string
		app, sys   list
		onlyClient bool // decode towards the client
	}{
		{name: "empty"},
		{name: "plain", bag: "a=b&c=d", app: list{prop("a", "b"), prop("c", "d")}},
		{name: "no = is null, = is empty", bag: "a&b=", app: list{null("a"), prop("b", "")}},
		{name: "= in the value", bag: "a=b=c", app: list{prop("a", "b=c")}},
		{name: "plus stays, escapes go", bag: "a+b=c%2Bd%20e", app: list{prop("a+b", "c+d e")}},
		{name: "lower-case escapes and UTF-8", bag: "%c3%a9=%E2%82%AC", app: list{prop("é", "€")}},
		{name: "raw marks of querystring", bag: "a=!'()*", app: list{prop("a", "!'()*")}},
		{name: "broken escapes stay", bag: "a=%4&b=%zz&c=%", app: list{prop("a", "%4"), prop("b", "%zz"), prop("c", "%")}},
		{name: "escapes to no UTF-8 stay", bag: "a=%FF", app: list{prop("a", "%FF")}},
		{name: "last of equal names", bag: "a=1&b=2&a=3", app: list{prop("a", "3"), prop("b", "2")}},
		{name: "last of equal system names", bag: "$.mid=1&%24.mid=2", sys: list{prop(iothub.MessageID, "2")}},
		{name: "empty pairs", bag: "&a=1&&b=2&", app: list{prop("a", "1"), prop("b", "2")}},
		{name: "raw and escaped $", bag: "$.mid=1&%24.cid=2&%24%2euid=3", sys: list{prop(iothub.MessageID, "1"), prop(iothub.CorrelationID, "2"), prop(iothub.UserID, "3")}},
		{name: "null system property", bag: "%24.mid", sys: list{null(iothub.MessageID)}},
		{name: "all that a client may set", bag: "$.to=a&$.exp=b&$.ct=c&$.ce=d&$.on=e&$.schema=f&$.ctime=g&$.ifid=h&$.sub=i&$.diagid=j&$.diagctx=k&iothub-operation=l",
			sys: list{prop(iothub.To, "a"), prop(iothub.AbsoluteExpiryTime, "b"), prop(iothub.ContentType, "c"), prop(iothub.ContentEncoding, "d"),
				prop(iothub.OutputName, "e"), prop(iothub.MessageSchema, "f"), prop(iothub.CreationTime, "g"), prop(iothub.InterfaceID, "h"),
				prop(iothub.ComponentName, "i"), prop(iothub.DiagnosticID, "j"), prop(iothub.CorrelationContext, "k"), prop(iothub.Operation, "l")}},
		{name: "unknown $. name is an application property", bag: "%24.dt=1&$.MID=2", app: list{prop("$.dt", "1"), prop("$.MID", "2")}},
		{name: "the sender is not the client's to say", bag: "$.cdid=x&%24.cmid=y&iothub-connection-device-id=z&IoTHub-Connection-auth-method=a&iothub-enqueuedtime=1&a=b", app: list{prop("a", "b")}},
		{name: "other iothub names pass", bag: "iothub-app-x=1&iothub-creation-time-utc=2&iothub-ack=full", app: list{prop("iothub-app-x", "1"), prop("iothub-creation-time-utc", "2"), prop("iothub-ack", "full")}},
		{name: "sender and ack towards a client", bag: "$.cdid=x&$.cmid=y&iothub-ack=full", onlyClient: true,
			sys: list{prop(iothub.ConnectionDeviceID, "x"), prop(iothub.ConnectionModuleID, "y"), prop(iothub.Ack, "full")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := topic.ToHub
			if tt.onlyClient {
				dir = topic.ToClient
			}
			var m iothub.Message
			if err := topic.DecodeBag(tt.bag, &m, dir); err != nil {
				t.Fatal(err)
			}
			if !same(m.Properties, tt.app) || !same(m.System, tt.sys) {
				t.Errorf("DecodeBag(%q) = %v, %v; want %v, %v", tt.bag, m.Properties, m.System, tt.app, tt.sys)
			}
		})
	}
	for _, bag := range []string{"=1", "a=1&=2"} {
		if err := topic.DecodeBag(bag, new(iothub.Message), topic.ToHub); !errors.Is(err, topic.ErrMalformed) {
			t.Errorf("DecodeBag(%q): %v; want ErrMalformed", bag, err)
		}
	}
}

func same(a, b iothub.Properties) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func TestDecodeBagOfManyPairsTakesLinearTime(t *testing.T) {
	var b strings.Builder
	for i := range 12000 {
		fmt.Fprintf(&b, "%x&", i)
	}
	b.WriteString("1=last")
	start := time.Now()
	var m iothub.Message
	if err := topic.DecodeBag(b.String(), &m, topic.ToHub); err != nil {
		t.Fatal(err)
	}
	if len(m.Properties) != 12000 || m.Properties.Get("1") != "last" {
		t.Errorf("%d properties, 1=%q", len(m.Properties), m.Properties.Get("1"))
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestEncodeBag(t *testing.T) {
	m := &iothub.Message{
		System: iothub.Properties{
			prop(iothub.MessageID, "a b/+#é"), prop(iothub.OutputName, "out"), prop(iothub.InterfaceID, "i"),
			prop(iothub.ConnectionDeviceID, "d"), prop(iothub.ConnectionModuleID, "m"),
			prop(iothub.EnqueuedTime, "now"), prop(iothub.Ack, "full"),
		},
		Properties: iothub.Properties{
			prop("a-b.c_d~", ""), null("n"), prop("$.dt", "1"), prop("$.mid", "forged"),
			prop("$.cdid", "forged"), prop("iothub-connection-device-id", "forged"), prop("", "nameless"),
		},
	}
	tests := []struct {
		name string
		dir  topic.Direction
		want string
	}{
		{"to the hub", topic.ToHub, "%24.mid=a%20b%2F%2B%23%C3%A9&%24.on=out&%24.ifid=i&a-b.c_d~=&n&%24.dt=1"},
		{"to a client", topic.ToClient, "%24.mid=a%20b%2F%2B%23%C3%A9&%24.cdid=d&%24.cmid=m&iothub-ack=full&a-b.c_d~=&n&%24.dt=1"},
	}
	for _, tt := range tests {
		if got := topic.EncodeBag(m, tt.dir); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := topic.EncodeBag(new(iothub.Message), topic.ToClient); got != "" {
		t.Errorf("empty message: %q", got)
	}
}

// drawMessage makes a message whose properties all have a place in a bag.
func drawMessage(t *rapid.T) *iothub.Message {
	m := &iothub.Message{}
	n := rapid.IntRange(0, 50).Draw(t, "properties")
	for range n {
		name := rapid.StringN(1, 12, -1).Filter(func(s string) bool { return !strings.HasPrefix(s, "iothub-") }).Draw(t, "name")
		if rapid.Bool().Draw(t, "null") {
			m.Properties.SetNull("x" + name)
		} else {
			m.Properties.Set("x"+name, rapid.String().Draw(t, "value"))
		}
	}
	for _, name := range []string{iothub.MessageID, iothub.CorrelationID, iothub.ContentType, iothub.ComponentName, iothub.Operation} {
		if rapid.Bool().Draw(t, name) {
			m.System.Set(name, rapid.String().Draw(t, "value"))
		}
	}
	return m
}

func TestBagsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawMessage(t)
		dir := rapid.SampledFrom([]topic.Direction{topic.ToHub, topic.ToClient}).Draw(t, "direction")
		bag := topic.EncodeBag(in, dir)
		if strings.ContainsAny(bag, "/+#\x00 $") {
			t.Fatalf("bag %q has bytes that break a topic", bag)
		}
		var out iothub.Message
		if err := topic.DecodeBag(bag, &out, dir); err != nil {
			t.Fatal(err)
		}
		if !same(in.Properties, out.Properties) || !same(in.System, out.System) {
			t.Fatalf("%+v -> %q -> %+v", in, bag, out)
		}
	})
}

func FuzzBag(f *testing.F) {
	for _, s := range []string{"%24.mid=1&$.cdid=x&a&b=&c=%E2%82%AC", "a=%FF&a=%2", "=x", "iothub-ack=full"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return // no MQTT string
		}
		for _, dir := range []topic.Direction{topic.ToHub, topic.ToClient} {
			var m, again iothub.Message
			if topic.DecodeBag(s, &m, dir) != nil {
				continue
			}
			if _, ok := m.System.Lookup(iothub.ConnectionDeviceID); ok && dir == topic.ToHub {
				t.Fatalf("%q forges a sender", s)
			}
			m.System.Delete(iothub.OutputName) // not written towards clients
			m.System.Delete(iothub.InterfaceID)
			bag := topic.EncodeBag(&m, dir)
			if err := topic.DecodeBag(bag, &again, dir); err != nil {
				t.Fatalf("%q -> %q: %v", s, bag, err)
			}
			for _, p := range m.System {
				if got, _ := again.System.Lookup(p.Name); got != p {
					t.Fatalf("%q -> %q: %v became %v", s, bag, p, got)
				}
			}
		}
	})
}
