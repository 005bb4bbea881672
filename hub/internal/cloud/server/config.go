package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ConnectionStringFile holds the login of the owner.
const ConnectionStringFile = "iothubowner.connectionstring"

// Config says how to run the hub.
type Config struct {
	Data     string // directory; made if missing
	HostName string
	// Names are more names and addresses under which clients may come.
	Names []string
	// Address to listen on; "" means all.
	Address                       string
	HTTPSPort, MQTTPort, AMQPPort int // 0 takes any free one
	WellKnownKeys                 bool
	// EventHostName is under which clients find the event-hub-compatible endpoint; ""
	// means HostName. ConsumerGroups are its groups besides $Default.
	EventHostName  string
	ConsumerGroups []string
	// MaxEvents and MaxEventBytes bound the event log; 0 means the default.
	MaxEvents, MaxEventBytes uint64
	// MaxChildren is how many children an edge device may have; 0 means the default.
	MaxChildren int
	// IDScope names the provisioning service of the hub; "" means the default one.
	IDScope string
	// AssignDelay is how long a registration is shown as being assigned.
	AssignDelay time.Duration
	// Grace is how long connections may take to end; 0 means 5 s.
	Grace  time.Duration
	Logger *slog.Logger
	// Ready is called once all listeners accept.
	Ready func(Endpoints)
}

// Endpoints are the addresses that the hub listens on.
type Endpoints struct {
	HTTPS, MQTT, AMQP net.Addr
}

func (c *Config) validate() error {
	switch {
	case c.Data == "":
		return errors.New("no data directory")
	case !validHost(c.HostName):
		return fmt.Errorf("%q is not a host name or address", c.HostName)
	case c.Address != "" && net.ParseIP(c.Address) == nil:
		return fmt.Errorf("%q is not an IP address", c.Address)
	}
	for _, n := range c.Names {
		if !validHost(n) {
			return fmt.Errorf("%q is not a host name or address", n)
		}
	}
	if c.EventHostName != "" && !validHost(c.EventHostName) {
		return fmt.Errorf("%q is not a host name or address", c.EventHostName)
	}
	if len(c.ConsumerGroups) > maxGroups {
		return fmt.Errorf("%d consumer groups; %d is the limit", len(c.ConsumerGroups), maxGroups)
	}
	for _, g := range c.ConsumerGroups {
		if !groupPattern.MatchString(g) {
			return fmt.Errorf("%q is not a name for a consumer group", g)
		}
	}
	for _, p := range []int{c.HTTPSPort, c.MQTTPort, c.AMQPPort} {
		if p < 0 || p > 65535 {
			return fmt.Errorf("%d is not a port", p)
		}
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = func(Endpoints) {}
	}
	return nil
}

// maxGroups is how many consumer groups a hub may have besides $Default.
const maxGroups = 20

var groupPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$`)

func validHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// hosts are the names that tokens may be for: the hub's own first.
func (c *Config) hosts() []string { return unique(append([]string{c.HostName}, c.Names...)) }

// certificateNames are those of the server certificate.
func (c *Config) certificateNames() []string {
	names := append(c.hosts(), "localhost", "127.0.0.1", "::1")
	if c.EventHostName != "" {
		names = append(names, c.EventHostName)
	}
	if ip := net.ParseIP(c.Address); ip != nil && !ip.IsUnspecified() {
		names = append(names, c.Address)
	}
	return unique(names)
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, s) }) {
			out = append(out, s)
		}
	}
	return out
}

func (c *Config) listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort(c.Address, strconv.Itoa(port)))
}
