package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// leafEvent is a line that the leaf program prints.
type leafEvent struct {
	Event  string `json:"event"`
	Batch  string `json:"batch"`
	Number int64  `json:"number"`
	Error  string `json:"error"`
}

// StartLeaf starts the leaf device, a program on the stock Node SDK that trusts the
// device's root certificate and knows edgeHub as its gateway, and waits until it
// is connected.
func (r *Rig) StartLeaf(ctx context.Context) error {
	bundle, err := r.TrustBundle(ctx)
	if err != nil {
		return err
	}
	r.say("starting the leaf device %s on the stock Node SDK", LeafID)
	connected := make(chan struct{})
	first := true
	log, err := os.OpenFile(r.logPath("leaf-events"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of the leaf: %w", err)
	}
	p, err := r.start(spec{
		name: "leaf", host: Leaf, path: "node", args: []string{"leaf.js"},
		dir: filepath.Join(r.Root, "deploy", "samples", "leaf-node"),
		env: []string{"LEAF_CONNECTION_STRING=" + r.leafConnection, "LEAF_CA_FILE=" + bundle},
		stdout: func(line string) {
			fmt.Fprintln(log, line)
			var e leafEvent
			if json.Unmarshal([]byte(line), &e) != nil {
				return
			}
			switch e.Event {
			case "acknowledged":
				r.LeafAcked.Add(LeafID, fmt.Sprintf("%s/%d", e.Batch, e.Number))
			case "connected":
				if first {
					first = false
					close(connected)
				}
			case "failed", "error":
				r.say("leaf: %s", e.Error)
			}
		},
	})
	if err != nil {
		log.Close()
		return err
	}
	go func() {
		<-p.Done()
		log.Close()
	}()
	r.leaf = p
	return r.waitReady(ctx, p, connected, 60*time.Second)
}

// StopLeaf lets the leaf finish what it has sent, and ends it.
func (r *Rig) StopLeaf() error { return r.leaf.Stop(60 * time.Second) }
