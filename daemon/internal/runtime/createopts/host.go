package createopts

// HostConfig is the part of the body about the host.
type HostConfig struct {
	Binds           []string                 `json:",omitempty"`
	Mounts          []Mount                  `json:",omitempty"`
	Tmpfs           map[string]string        `json:",omitempty"`
	PortBindings    map[string][]PortBinding `json:",omitempty"`
	PublishAllPorts bool                     `json:",omitempty"`

	NetworkMode  string `json:",omitempty"`
	PidMode      string `json:",omitempty"`
	IpcMode      string `json:",omitempty"`
	UTSMode      string `json:",omitempty"`
	UsernsMode   string `json:",omitempty"`
	CgroupnsMode string `json:",omitempty"`

	Privileged     bool            `json:",omitempty"`
	CapAdd         []string        `json:",omitempty"`
	CapDrop        []string        `json:",omitempty"`
	SecurityOpt    []string        `json:",omitempty"`
	GroupAdd       []string        `json:",omitempty"`
	ReadonlyRootfs bool            `json:",omitempty"`
	MaskedPaths    *[]string       `json:",omitempty"`
	ReadonlyPaths  *[]string       `json:",omitempty"`
	Devices        []Device        `json:",omitempty"`
	DeviceRequests []DeviceRequest `json:",omitempty"`
	Runtime        string          `json:",omitempty"`

	DeviceCgroupRules []string `json:",omitempty"`

	ExtraHosts []string `json:",omitempty"`
	Dns        []string `json:",omitempty"`
	DnsSearch  []string `json:",omitempty"`
	DnsOptions []string `json:",omitempty"`

	LogConfig     *LogConfig     `json:",omitempty"`
	RestartPolicy *RestartPolicy `json:",omitempty"`
	AutoRemove    bool           `json:",omitempty"`
	Init          *bool          `json:",omitempty"`

	Memory            int64  `json:",omitempty"`
	MemoryReservation int64  `json:",omitempty"`
	MemorySwap        int64  `json:",omitempty"`
	MemorySwappiness  *int64 `json:",omitempty"`
	KernelMemory      int64  `json:",omitempty"`
	OomKillDisable    *bool  `json:",omitempty"`
	OomScoreAdj       int    `json:",omitempty"`
	NanoCpus          int64  `json:",omitempty"`
	CpuShares         int64  `json:",omitempty"`
	CpuQuota          int64  `json:",omitempty"`
	CpuPeriod         int64  `json:",omitempty"`
	CpusetCpus        string `json:",omitempty"`
	CpusetMems        string `json:",omitempty"`
	PidsLimit         *int64 `json:",omitempty"`
	ShmSize           int64  `json:",omitempty"`

	BlkioWeight          uint16           `json:",omitempty"`
	BlkioWeightDevice    []WeightDevice   `json:",omitempty"`
	BlkioDeviceReadBps   []ThrottleDevice `json:",omitempty"`
	BlkioDeviceWriteBps  []ThrottleDevice `json:",omitempty"`
	BlkioDeviceReadIOps  []ThrottleDevice `json:",omitempty"`
	BlkioDeviceWriteIOps []ThrottleDevice `json:",omitempty"`

	Ulimits []Ulimit          `json:",omitempty"`
	Sysctls map[string]string `json:",omitempty"`
}

// Mount is an entry of HostConfig.Mounts.
type Mount struct {
	Type         string        `json:",omitempty"` // bind, volume, tmpfs
	Source       string        `json:",omitempty"`
	Target       string        `json:",omitempty"`
	ReadOnly     bool          `json:",omitempty"`
	Consistency  string        `json:",omitempty"`
	BindOptions  *BindOptions  `json:",omitempty"`
	TmpfsOptions *TmpfsOptions `json:",omitempty"`
	// VolumeOptions.NoCopy is obeyed; drivers and labels are not.
	VolumeOptions *VolumeOptions `json:",omitempty"`
}

// BindOptions belongs to a bind mount.
type BindOptions struct {
	Propagation  string `json:",omitempty"`
	NonRecursive bool   `json:",omitempty"`
}

// TmpfsOptions belongs to a tmpfs mount. Mode is decimal, as in Docker.
type TmpfsOptions struct {
	SizeBytes int64  `json:",omitempty"`
	Mode      uint32 `json:",omitempty"`
}

// VolumeOptions belongs to a named volume.
type VolumeOptions struct {
	NoCopy       bool              `json:",omitempty"`
	Labels       map[string]string `json:",omitempty"`
	DriverConfig *DriverConfig     `json:",omitempty"`
}

// DriverConfig names a volume driver.
type DriverConfig struct {
	Name    string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
}

// PortBinding is one host end of a published port.
type PortBinding struct {
	HostIp   string `json:",omitempty"`
	HostPort string `json:",omitempty"`
}

// Device makes a device of the host usable in the module.
type Device struct {
	PathOnHost        string `json:",omitempty"`
	PathInContainer   string `json:",omitempty"`
	CgroupPermissions string `json:",omitempty"`
}

// DeviceRequest asks for devices by what they are.
type DeviceRequest struct {
	Driver       string            `json:",omitempty"` // cdi, nvidia
	Count        int               `json:",omitempty"` // -1 is all
	DeviceIDs    []string          `json:",omitempty"`
	Capabilities [][]string        `json:",omitempty"`
	Options      map[string]string `json:",omitempty"`
}

// WeightDevice is the share of one disk, 10 to 1000.
type WeightDevice struct {
	Path   string `json:",omitempty"`
	Weight uint16 `json:",omitempty"`
}

// ThrottleDevice bounds bytes or operations a second on one disk.
type ThrottleDevice struct {
	Path string `json:",omitempty"`
	Rate uint64 `json:",omitempty"`
}

// LogConfig chooses what is kept of the module's output.
type LogConfig struct {
	Type   string            `json:",omitempty"`
	Config map[string]string `json:",omitempty"`
}

// RestartPolicy is accepted and ignored: restarting is the agent's job.
type RestartPolicy struct {
	Name              string `json:",omitempty"`
	MaximumRetryCount int    `json:",omitempty"`
}

// Ulimit is one resource limit; -1 is unlimited.
type Ulimit struct {
	Name string `json:",omitempty"`
	Soft int64  `json:",omitempty"`
	Hard int64  `json:",omitempty"`
}
