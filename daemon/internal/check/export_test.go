package check

// Parts that tests reach.
var (
	ClockOffset   = clockOffset
	OffsetOf      = offsetOf
	FromHostsFile = fromHostsFile
	Nameservers   = nameservers
	FindModuleNet = findModuleNet
	HostConnect   = hostConnect
)
