package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

const (
	loadModule = "load"
	sinkModule = "sink"
	window     = 64
)

// connect connects as a module as soon as the hub lets it.
func connect(ctx context.Context, hub *hubrig.Process, o mqttload.Options) (*mqttload.Client, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := mqttload.Dial(ctx, o)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-hub.Done():
			return nil, errHubEnded
		case <-tick.C:
		}
	}
}

var errHubEnded = errors.New("hub ended by itself")

// load sends messages until ctx ends, the connection does, or limit of them are
// sent. It keeps up to window under way, in bursts.
func (h *harness) load(ctx context.Context, c *mqttload.Client, limit int, r *rand.Rand) {
	slots := make(chan struct{}, window)
	for range limit {
		select {
		case slots <- struct{}{}:
		default:
			if c.Flush() != nil || !pause(ctx, c, time.Duration(r.IntN(12))*time.Millisecond) {
				return
			}
			select {
			case slots <- struct{}{}:
			case <-c.Done():
				return
			case <-ctx.Done():
				return
			}
		}
		way := toModule
		switch r.IntN(10) {
		case 0, 1, 2:
			way = toCloud
		case 3, 4:
			way = toBoth
		}
		size := 20 + r.IntN(400)
		if r.IntN(20) == 0 {
			size = r.IntN(40_000)
		}
		n := h.ledger.send(way)
		if c.Publish(hubrig.Output(loadModule, way), body(n, size), func() {
			h.ledger.ack(n)
			<-slots
		}) != nil {
			return
		}
	}
	_ = c.Flush() // a broken connection ends the load anyhow
	pause(ctx, c, time.Hour)
}

func pause(ctx context.Context, c *mqttload.Client, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.Done():
	case <-ctx.Done():
	}
	return false
}

// sink takes what comes to the module's input until ctx ends; it connects again
// when the connection breaks.
func (h *harness) sink(ctx context.Context, hub *hubrig.Process) {
	o := h.rig.Login(sinkModule)
	o.Persistent = true
	o.OnMessage = func(_ string, payload []byte) { h.ledger.deliver(toModule, string(payload[:min(len(payload), 40)])) }
	for ctx.Err() == nil {
		c, err := connect(ctx, hub, o)
		if err != nil {
			return
		}
		if err := c.Subscribe(ctx, hubrig.Inputs(sinkModule)); err == nil {
			select {
			case <-c.Done():
			case <-ctx.Done():
			}
		}
		c.Close()
	}
}

// loader is a load that connects again whenever its connection breaks.
type loader struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (l *loader) stop() { l.cancel(); l.done.Wait() }

func (h *harness) withLoad(ctx context.Context, hub *hubrig.Process) *loader {
	ctx, cancel := context.WithCancel(ctx)
	l := &loader{cancel: cancel}
	random := rand.New(rand.NewPCG(h.rand.Uint64(), 3))
	l.done.Go(func() {
		for ctx.Err() == nil {
			c, err := connect(ctx, hub, h.rig.Login(loadModule))
			if err != nil {
				return
			}
			h.load(ctx, c, 1<<30, random)
			c.Close()
		}
	})
	return l
}

// withSink runs a sink, and returns a function that ends it.
func (h *harness) withSink(ctx context.Context, hub *hubrig.Process) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { h.sink(ctx, hub) })
	return func() { cancel(); done.Wait() }
}
