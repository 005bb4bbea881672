package check

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
