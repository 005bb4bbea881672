package rest

import "encoding/json"

// Kinds of Authentication.
const (
	AuthSAS         = "sas"
	AuthSelfSigned  = "selfSigned"
	AuthCertificate = "certificateAuthority"
	AuthNone        = "none"
)

// Values of Device.Status and of connectionState.
const (
	Enabled      = "enabled"
	Disabled     = "disabled"
	Connected    = "Connected"
	Disconnected = "Disconnected"
)

// Authentication says how an identity proves itself.
type Authentication struct {
	SymmetricKey   SymmetricKey   `json:"symmetricKey"`
	X509Thumbprint X509Thumbprint `json:"x509Thumbprint"`
	Type           string         `json:"type,omitempty"`
}

// SymmetricKey holds base64 keys; an empty one asks the hub for a new key.
type SymmetricKey struct {
	PrimaryKey   Secret `json:"primaryKey"`
	SecondaryKey Secret `json:"secondaryKey"`
}

// X509Thumbprint holds hexadecimal SHA-1 or SHA-256 thumbprints.
type X509Thumbprint struct {
	PrimaryThumbprint   Text `json:"primaryThumbprint"`
	SecondaryThumbprint Text `json:"secondaryThumbprint"`
}

// SAS returns the Authentication with these two base64 keys.
func SAS(primary, secondary string) *Authentication {
	return &Authentication{Type: AuthSAS,
		SymmetricKey: SymmetricKey{PrimaryKey: Secret(primary), SecondaryKey: Secret(secondary)}}
}

// Capabilities of a device.
type Capabilities struct {
	IoTEdge bool `json:"iotEdge"`
}

// Device is a device identity. In a request only DeviceID, Status, StatusReason,
// Authentication, Capabilities, DeviceScope and ParentScopes are read; nil (or for
// strings empty) members keep what is stored.
type Device struct {
	DeviceID                   string          `json:"deviceId"`
	GenerationID               string          `json:"generationId,omitempty"`
	Etag                       string          `json:"etag,omitempty"`
	ConnectionState            string          `json:"connectionState,omitempty"`
	Status                     string          `json:"status,omitempty"`
	StatusReason               Text            `json:"statusReason"`
	ConnectionStateUpdatedTime Time            `json:"connectionStateUpdatedTime"`
	StatusUpdatedTime          Time            `json:"statusUpdatedTime"`
	LastActivityTime           Time            `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int             `json:"cloudToDeviceMessageCount"`
	Authentication             *Authentication `json:"authentication,omitempty"`
	Capabilities               *Capabilities   `json:"capabilities,omitempty"`
	DeviceScope                string          `json:"deviceScope,omitempty"`
	ParentScopes               []string        `json:"parentScopes,omitzero"`
}

// IsEdge tells whether the device is an edge device.
func (d *Device) IsEdge() bool { return d.Capabilities != nil && d.Capabilities.IoTEdge }

// Module is a module identity. In a request only ids, ManagedBy and Authentication
// are read; a nil Authentication keeps what is stored, or makes keys for a new one.
type Module struct {
	ModuleID                   string          `json:"moduleId"`
	ManagedBy                  string          `json:"managedBy,omitempty"`
	DeviceID                   string          `json:"deviceId"`
	GenerationID               string          `json:"generationId,omitempty"`
	Etag                       string          `json:"etag,omitempty"`
	ConnectionState            string          `json:"connectionState,omitempty"`
	ConnectionStateUpdatedTime Time            `json:"connectionStateUpdatedTime"`
	LastActivityTime           Time            `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int             `json:"cloudToDeviceMessageCount"`
	Authentication             *Authentication `json:"authentication,omitempty"`
}

// Twin is a whole twin as the service side sees it. Sections are JSON objects with
// "$metadata" and "$version" (tags have neither).
type Twin struct {
	DeviceID                  string                         `json:"deviceId"`
	ModuleID                  string                         `json:"moduleId,omitempty"`
	Etag                      string                         `json:"etag"`
	DeviceEtag                string                         `json:"deviceEtag"`
	Status                    string                         `json:"status"`
	StatusReason              Text                           `json:"statusReason"`
	StatusUpdateTime          Time                           `json:"statusUpdateTime"`
	ConnectionState           string                         `json:"connectionState"`
	LastActivityTime          Time                           `json:"lastActivityTime"`
	CloudToDeviceMessageCount int                            `json:"cloudToDeviceMessageCount"`
	AuthenticationType        string                         `json:"authenticationType"`
	X509Thumbprint            X509Thumbprint                 `json:"x509Thumbprint"`
	ModelID                   string                         `json:"modelId"`
	Version                   int64                          `json:"version"`
	Tags                      json.RawMessage                `json:"tags"`
	Properties                TwinSections                   `json:"properties"`
	Capabilities              *Capabilities                  `json:"capabilities,omitempty"`
	DeviceScope               string                         `json:"deviceScope,omitempty"`
	ParentScopes              []string                       `json:"parentScopes,omitzero"`
	Configurations            map[string]ConfigurationStatus `json:"configurations,omitempty"`
}

// TwinSections are the two property sections of a twin.
type TwinSections struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported"`
}

// ConfigurationStatus is how far a configuration got on a twin.
type ConfigurationStatus struct {
	Status string `json:"status"`
}

// TwinPatch is a change of a twin by the service side; nil sections stay as they are.
type TwinPatch struct {
	Tags       json.RawMessage   `json:"tags,omitempty"`
	Properties *DesiredOnlyPatch `json:"properties,omitempty"`
}

// DesiredOnlyPatch is the properties member of a TwinPatch.
type DesiredOnlyPatch struct {
	Desired json.RawMessage `json:"desired,omitempty"`
}

// DesiredPatch returns the TwinPatch that changes desired properties.
func DesiredPatch(desired json.RawMessage) TwinPatch {
	return TwinPatch{Properties: &DesiredOnlyPatch{Desired: desired}}
}

// MethodRequest calls a direct method. Zero times mean the hub's defaults.
type MethodRequest struct {
	MethodName               string          `json:"methodName"`
	Payload                  json.RawMessage `json:"payload,omitempty"`
	ResponseTimeoutInSeconds int             `json:"responseTimeoutInSeconds,omitempty"`
	ConnectTimeoutInSeconds  int             `json:"connectTimeoutInSeconds,omitempty"`
}

// MethodResult is the answer of the device.
type MethodResult struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// ConfigurationContent is what a deployment manifest puts on one device: for each
// module, keys "properties.desired" or "properties.desired.<path>" and their values.
type ConfigurationContent struct {
	ModulesContent map[string]map[string]json.RawMessage `json:"modulesContent,omitempty"`
}

// ScopePage asks for a page of the devices in a scope (nested form).
type ScopePage struct {
	PageSize         int    `json:"pageSize"`
	ContinuationLink Text   `json:"continuationLink"`
	AuthChain        string `json:"authChain"`
}

// ScopeTarget asks for one identity of a scope (nested form).
type ScopeTarget struct {
	TargetDeviceID string `json:"targetDeviceId"`
	TargetModuleID Text   `json:"targetModuleId"`
	AuthChain      string `json:"authChain"`
}

// ScopeResult is a page of a scope, or one identity of it. More pages follow while
// ContinuationLink is not empty.
type ScopeResult struct {
	Devices          []Device `json:"devices"`
	Modules          []Module `json:"modules"`
	ContinuationLink Text     `json:"continuationLink"`
}

// Statistics counts devices.
type Statistics struct {
	Total    int `json:"totalDeviceCount"`
	Enabled  int `json:"enabledDeviceCount"`
	Disabled int `json:"disabledDeviceCount"`
}

// ErrorBody is what a hub answers with when it refuses.
type ErrorBody struct {
	Message          string `json:"Message"`
	ExceptionMessage string `json:"ExceptionMessage"`
}

// Configuration brings a manifest to all edge devices for which a condition holds. The
// hub alone says times, etag, and the results and queries of the system metrics.
type Configuration struct {
	ID              string               `json:"id"`
	SchemaVersion   string               `json:"schemaVersion"`
	Labels          map[string]string    `json:"labels"`
	Content         json.RawMessage      `json:"content"`
	ContentType     Text                 `json:"contentType"`
	TargetCondition string               `json:"targetCondition"`
	Created         Time                 `json:"createdTimeUtc"`
	Updated         Time                 `json:"lastUpdatedTimeUtc"`
	Priority        int                  `json:"priority"`
	SystemMetrics   ConfigurationMetrics `json:"systemMetrics"`
	Metrics         ConfigurationMetrics `json:"metrics"`
	Etag            string               `json:"etag"`
}

// ConfigurationMetrics are queries, and how many rows each of them gives.
type ConfigurationMetrics struct {
	Results map[string]int    `json:"results"`
	Queries map[string]string `json:"queries"`
}

// QueryTest are queries to be looked at before they are used.
type QueryTest struct {
	TargetCondition     string            `json:"targetCondition"`
	CustomMetricQueries map[string]string `json:"customMetricQueries"`
}

// QueryTestResult is what is wrong with a QueryTest: null and empty if nothing is.
type QueryTestResult struct {
	TargetConditionError    Text              `json:"targetConditionError"`
	CustomMetricQueryErrors map[string]string `json:"customMetricQueryErrors"`
}
