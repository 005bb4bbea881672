package runtime

import "time"

// Stats is what a running module uses now. Counters start with the module.
type Stats struct {
	Module, Instance string
	Read             time.Time
	// Processes is the number of processes and threads; ProcessLimit 0 is none.
	Processes, ProcessLimit uint64
	// CPU times are nanoseconds.
	CPUTotal, CPUUser, CPUKernel uint64
	// MemoryLimit is the machine's memory when the module has no limit.
	MemoryUsage, MemoryLimit uint64
	// Memory holds the details by the kernel's names, such as inactive_file.
	Memory   map[string]uint64
	Networks map[string]NetworkStats
	Block    []BlockStats
}

// NetworkStats counts what went through one interface, as the module sees it.
type NetworkStats struct {
	RxBytes   uint64 `json:"rx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	RxErrors  uint64 `json:"rx_errors"`
	RxDropped uint64 `json:"rx_dropped"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
	TxErrors  uint64 `json:"tx_errors"`
	TxDropped uint64 `json:"tx_dropped"`
}

// BlockStats are the bytes of one operation ("Read", "Write") on one disk.
type BlockStats struct {
	Major uint64 `json:"major"`
	Minor uint64 `json:"minor"`
	Op    string `json:"op"`
	Value uint64 `json:"value"`
}
