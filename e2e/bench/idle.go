package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/amqpload"
	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// crowdDialers is how many connections are made at a time.
const crowdDialers = 16

// idleBuffer is the buffers' size of clients that do not send: there are many.
const idleBuffer = 4096

// crowd are devices of iothub. It has the same heads as edgehub, below which only 100
// devices may stand.
type crowd struct {
	rig *hubrig.Rig
	tls *tls.Config
	key []byte // one for all: what it costs is not the question
}

func newCrowd(rig *hubrig.Rig) (*crowd, error) {
	root, err := os.ReadFile(rig.CloudRoot())
	if err != nil {
		return nil, err
	}
	c := &crowd{rig: rig, key: make([]byte, 32)}
	c.tls = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: rig.CloudAddress(), MinVersion: tls.VersionTLS13}
	c.tls.RootCAs.AppendCertsFromPEM(root)
	_, err = rand.Read(c.key)
	return c, err
}

func crowdName(i int) string { return fmt.Sprintf("crowd-%d", i) }

// register makes n devices.
func (c *crowd) register(ctx context.Context, n int) error {
	return each(n, func(i int) error {
		return c.rig.Put(ctx, "devices/"+crowdName(i), "", map[string]any{
			"deviceId": crowdName(i), "status": "enabled", "authentication": hubrig.SymmetricKey(c.key),
		}, nil)
	})
}

// each calls f for 0 to n-1, some at a time, until one fails.
func each(n int, f func(i int) error) error {
	work := make(chan int)
	errs := make([]error, crowdDialers)
	failed := make(chan struct{}, crowdDialers)
	var wg sync.WaitGroup
	for k := range crowdDialers {
		wg.Go(func() {
			for i := range work {
				if errs[k] = f(i); errs[k] != nil {
					failed <- struct{}{}
					return
				}
			}
		})
	}
	stopped := false
	for i := 0; i < n && !stopped; i++ {
		select {
		case work <- i:
		case <-failed:
			stopped = true
		}
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

type closer interface{ Close() }

// dialer connects the i-th device.
type dialer func(ctx context.Context, i int) (closer, error)

func (c *crowd) token(i int) string {
	return hubrig.Token(c.rig.CloudAddress()+"/devices/"+crowdName(i), c.key, time.Now().Add(24*time.Hour))
}

func (c *crowd) dialMQTT(ctx context.Context, i int) (closer, error) {
	return mqttload.Dial(ctx, mqttload.Options{
		Addr: net.JoinHostPort(c.rig.CloudAddress(), "8883"), TLS: c.tls, Buffer: idleBuffer, ClientID: crowdName(i),
		Username: c.rig.CloudAddress() + "/" + crowdName(i) + "/?api-version=2021-04-12", Password: c.token(i),
	})
}

func (c *crowd) dialAMQP(ctx context.Context, i int) (closer, error) {
	name, _, _ := strings.Cut(c.rig.CloudAddress(), ".")
	return amqpload.Dial(ctx, amqpload.Options{
		Addr: net.JoinHostPort(c.rig.CloudAddress(), "5671"), TLS: c.tls, Buffer: idleBuffer, Host: c.rig.CloudAddress(),
		Username: crowdName(i) + "@sas." + name, Password: c.token(i), Address: "/devices/" + crowdName(i) + "/messages/events",
	})
}

// idle measures what connections cost that do nothing.
func idle(ctx context.Context, o Options) (bars []Bar, err error) {
	rig, err := newRig(ctx, o.dir("idle"), o.Bin, 1, 1)
	defer func() { err = errors.Join(err, rig.Close()) }()
	if err != nil {
		return nil, err
	}
	c, err := newCrowd(rig)
	if err != nil {
		return nil, err
	}
	most := o.Crowds[len(o.Crowds)-1]
	if err := c.register(ctx, most); err != nil {
		return nil, fmt.Errorf("register devices: %w", err)
	}
	o.Say("%d devices are registered", most)
	heads := []struct {
		name string
		dial dialer
	}{{"MQTT", c.dialMQTT}, {"AMQP", c.dialAMQP}}
	costs := make(map[string][]float64) // KiB a connection, by head and crowd
	for round := range o.Rounds {
		for _, h := range heads {
			list, err := c.connect(ctx, o.Crowds, h.dial)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", h.name, err)
			}
			for i, n := range o.Crowds {
				key := fmt.Sprint(h.name, n)
				costs[key] = append(costs[key], list[i])
				o.Say("round %d: %s, %d connections: %.1f KiB each", round+1, h.name, n, list[i])
			}
		}
	}
	w := table(o.Out)
	fmt.Fprintln(w, "head\tconnections\tmemory for each\t")
	for _, h := range heads {
		for _, n := range o.Crowds {
			fmt.Fprintf(w, "%s\t%d\t%.1f KiB\t\n", h.name, n, medianOf(costs[fmt.Sprint(h.name, n)]))
		}
	}
	fmt.Fprintf(w, "\nresident memory of iothub, which has the heads of edgehub, over that without clients; TLS 1.3, devices\n"+
		"that are logged in and, over AMQP, have a link for events; median of %d rounds\n", o.Rounds)
	return nil, w.Flush()
}

// connect starts the hub anew, opens the crowds, and returns what each of their
// connections takes, in KiB.
func (c *crowd) connect(ctx context.Context, crowds []int, dial dialer) (costs []float64, err error) {
	if err := c.rig.RestartCloud(ctx); err != nil {
		return nil, err
	}
	hub := c.rig.Cloud()
	before, err := restOf(ctx, hub)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var open []closer
	defer func() {
		err = errors.Join(err, each(len(open), func(i int) error { open[i].Close(); return nil }))
	}()
	for _, n := range crowds {
		have := len(open)
		if err := each(n-have, func(i int) error {
			conn, err := dial(ctx, have+i)
			if err != nil {
				return fmt.Errorf("connection %d: %w", have+i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, conn)
			return nil
		}); err != nil {
			return nil, err
		}
		after, err := restOf(ctx, hub)
		if err != nil {
			return nil, err
		}
		costs = append(costs, float64(after.all()-before.all())/float64(n)/1024)
	}
	return costs, nil
}
