package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Sensor and filter are the sample modules of the development manifest, as the
// cloud knows them.
const (
	SensorID = EdgeID + "/temperature-sensor"
	FilterID = EdgeID + "/filter"

	// routeThreshold is the condition of the manifest's route from the sensor to
	// the filter: colder readings are not routed.
	routeThreshold = 21.5
)

// Bring brings the whole path up: cloud, images, deployment, device, modules. It
// returns when every module of the manifest runs and the agent has said so.
func (r *Rig) Bring(ctx context.Context) (AgentReport, error) {
	if err := r.bring(ctx, func() error { return r.Deploy(ctx, r.Manifest) }); err != nil {
		return AgentReport{}, err
	}
	return r.WaitDeployed(ctx)
}

// BringLocal brings cloud and device up for a device whose deployment is not in the cloud:
// see Options.Local. It returns when the daemon has been started.
func (r *Rig) BringLocal(ctx context.Context) error {
	return r.bring(ctx, func() error { return nil })
}

func (r *Rig) bring(ctx context.Context, deploy func() error) error {
	if err := r.StartCloud(ctx); err != nil {
		return err
	}
	connectionString, err := r.CreateDevices(ctx)
	if err != nil {
		return err
	}
	if err := r.pushAndSay(ctx); err != nil {
		return err
	}
	if err := deploy(); err != nil {
		return err
	}
	if err := r.WriteDeviceConfig(manual(connectionString)); err != nil {
		return err
	}
	return r.StartDevice()
}

func (r *Rig) pushAndSay(ctx context.Context) error {
	images, err := r.PushImages(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(images) {
		r.say("  %s", strings.TrimSpace(line))
	}
	return nil
}

// Quiet lets the senders finish and waits until edgeHub has nothing left for
// anybody: the leaf is stopped, the sensor is told by its twin to send no more.
func (r *Rig) Quiet(ctx context.Context) error {
	if r.leaf != nil && !r.leaf.Ended() {
		if err := r.StopLeaf(); err != nil {
			return err
		}
	}
	if _, err := r.IoTHub(ctx, "twin", "patch", EdgeID, "temperature-sensor",
		"--desired", `{"SendData":false}`); err != nil {
		return err
	}
	empty := 0
	return poll(ctx, 500*time.Millisecond, "wait for the queues to drain", func() (bool, error) {
		m, err := r.HubMetrics(ctx)
		if err != nil {
			empty = 0
			return false, err
		}
		// A message may be between two queues while both are empty, for the
		// moment that a module works on it.
		if n := m.Sum("edgehub_queue_length"); n > 0 {
			empty = 0
			return false, fmt.Errorf("%v messages are queued", n)
		}
		empty++
		return empty >= 6, nil
	})
}

// SensorAcked reads from the sensor's log which readings the hub has acknowledged
// to it and, of these, which ones the route takes to the filter.
func (r *Rig) SensorAcked(ctx context.Context) (acked, routed []string, err error) {
	out, err := r.EdgeCtl(ctx, "logs", "temperature-sensor")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(out) {
		var e struct {
			Msg         string  `json:"msg"`
			Batch       string  `json:"batch"`
			Sequence    int64   `json:"sequence"`
			Temperature float64 `json:"temperature"`
		}
		if json.Unmarshal([]byte(line), &e) != nil || e.Msg != "acknowledged" {
			continue
		}
		key := fmt.Sprintf("%s/%d", e.Batch, e.Sequence)
		acked = append(acked, key)
		if e.Temperature > routeThreshold {
			routed = append(routed, key)
		}
	}
	return acked, routed, nil
}

// Balance is the account of one sender: what edgeHub has acknowledged to it for the
// cloud, what arrived there, and what did not.
type Balance struct {
	Identity   string
	Acked      int // acknowledged to the sender
	ForCloud   int // of these, on a way to the cloud
	Arrived    int // different messages in the cloud
	Duplicates int
	Lost       []string
}

// Balances closes the accounts. Call Quiet first. Arrival in the cloud's event
// stream is awaited until ctx ends.
func (r *Rig) Balances(ctx context.Context) ([]Balance, error) {
	acked, routed, err := r.SensorAcked(ctx)
	if err != nil {
		return nil, err
	}
	leaf := r.LeafAcked.Keys(LeafID)
	_ = poll(ctx, 200*time.Millisecond, "wait for the last messages", func() (bool, error) {
		return len(r.Arrived.Missing(FilterID, routed)) == 0 && len(r.Arrived.Missing(LeafID, leaf)) == 0, nil
	})
	sensor := Balance{Identity: SensorID, Acked: len(acked), ForCloud: len(routed), Lost: r.Arrived.Missing(FilterID, routed)}
	sensor.Arrived, sensor.Duplicates = r.Arrived.Count(FilterID)
	l := Balance{Identity: LeafID, Acked: len(leaf), ForCloud: len(leaf), Lost: r.Arrived.Missing(LeafID, leaf)}
	l.Arrived, l.Duplicates = r.Arrived.Count(LeafID)
	return []Balance{sensor, l}, nil
}
