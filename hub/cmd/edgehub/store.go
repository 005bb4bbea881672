package main

import (
	"os"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/storecmd"
)

// limits are those of the queues.
func (p *program) limits() edge.Limits {
	l := edge.Limits{MaxBytes: p.set.QueueMaxBytes, MaxAge: p.set.QueueMaxAge, LiveFirst: p.set.QueueLiveFirst}
	if p.set.QueueDropOldest {
		l.WhenFull = queue.DropOldest
	}
	return l
}

// storeCmd looks at what a hub has stored; the hub must not run meanwhile.
type storeCmd struct {
	Show   storeShowCmd   `cmd:"" help:"Show the queues with counts, bytes and oldest age, and what else is stored."`
	Verify storeVerifyCmd `cmd:"" help:"Read every record and say what is wrong; exit status 1 if anything is."`
}

type storeShowCmd struct {
	Dir string `arg:"" help:"The hub's storage folder." type:"existingdir"`
}

type storeVerifyCmd struct {
	Dir string `arg:"" help:"The hub's storage folder." type:"existingdir"`
}

// Run shows.
func (c storeShowCmd) Run() error { return storecmd.Show(os.Stdout, c.Dir, time.Now()) }

// Run verifies.
func (c storeVerifyCmd) Run() error { return storecmd.Verify(os.Stdout, c.Dir, time.Now()) }
