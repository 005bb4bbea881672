package containerd

import "github.com/breakwater-iot/breakwater/daemon/internal/runtime"

var (
	ParseRef        = parseRef
	RegistryHost    = registryHost
	ParseCgroups    = parseCgroups
	ParseStartTicks = parseStartTicks
	NewHub          = newHub
	PullCause       = pullCause
)

func (c cgroups) Within(init cgroups, own string) bool { return c.within(init, own) }

type (
	Hub       = hub
	KeyedLock = keyedLock
)

func (h *hub) Publish(e runtime.Event) { h.publish(e) }

func (h *hub) Close() { h.close() }

var Subscribe = (*hub).subscribe

var Lock = (*keyedLock).lock

// The readers of what modules use.
var (
	ReadMetrics = readMetrics
	ParseNetDev = parseNetDev
)

// What takes over after a daemon's or a shim's end.
var (
	KnownTask    = knownTask
	AwaitDead    = awaitDead
	StaleBundle  = staleBundle
	RemoveBundle = removeBundle
)

const TakeoverTimeout = takeoverTimeout

func (c cgroups) At(own string) bool { return c.at(own) }
