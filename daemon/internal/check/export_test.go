package check

// The networks to look in.
const (
	InModuleNetwork = inModuleNetwork
	InHostNetwork   = inHostNetwork
)

// Parts that tests reach.
var (
	ClockOffset   = clockOffset
	OffsetOf      = offsetOf
	FromHostsFile = fromHostsFile
	Nameservers   = nameservers
	FindModuleNet = findModuleNet
	OnHostMount   = onHostMount
	StorageFolder = storageFolder
	Environ       = environ
)
