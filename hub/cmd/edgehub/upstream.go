package main

import (
	"net"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/upstream"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

// network is the way to the cloud, perhaps through a proxy.
func (p *program) network() (*proxy.Dialer, error) {
	d, err := proxy.New(p.set.HTTPSProxy, p.set.NoProxy)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(p.dialHost(), strconv.Itoa(p.set.Upstream.Port()))
	p.log.Info("way to the cloud", "protocol", p.set.Upstream.String(), "address", address, "proxy", d.Through(address))
	return d, nil
}

// upstream makes the connections to the cloud.
func (p *program) upstream(network *proxy.Dialer) (upstream.Dialer, error) {
	return upstream.ByClient(upstream.ClientOptions{
		Self: p.self(), Connections: p.set.Connections,
		Chain: func(id iothub.Identity) (string, bool) { return p.scope.Chain(id, p.set.DeviceID) },
		Product: func(id iothub.Identity) string {
			return strings.TrimSpace(p.hub.Product(id) + " EdgeHub/" + version)
		},
		Base: client.Options{
			Protocol: p.set.Upstream, Fallback: p.set.UpstreamFallback, HubName: p.set.HubName, Host: p.dialHost(), Roots: p.bundle.Roots,
			Dial: network.DialContext, Signer: client.SignerFunc(p.vault.Sign), Logger: p.log,
			RequestTimeout: p.set.CallTimeout,
		},
	})
}
