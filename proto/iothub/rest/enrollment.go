package rest

import "encoding/json"

// Kinds of attestation of the device provisioning service.
const (
	AttestKey  = "symmetricKey"
	AttestX509 = "x509"
	AttestTPM  = "tpm"
)

// Allocation policies: how an enrollment chooses a hub.
const (
	AllocateHashed  = "hashed"
	AllocateStatic  = "static"
	AllocateLatency = "geoLatency"
	AllocateCustom  = "custom"
)

// Statuses of a registration.
const (
	RegistrationUnassigned = "unassigned"
	RegistrationAssigning  = "assigning"
	RegistrationAssigned   = "assigned"
	RegistrationFailed     = "failed"
	RegistrationDisabled   = "disabled"
)

// What an assignment did to the device (RegistrationState.Substatus).
const (
	AssignedInitially  = "initialAssignment"
	AssignedMigrated   = "deviceDataMigrated"
	AssignedReset      = "deviceDataReset"
	AssignedBackToPast = "reprovisionedToInitialAssignment"
)

// EnrollmentTerms are what individual enrollments and groups have in common. In a
// request nil members and empty strings mean the default.
type EnrollmentTerms struct {
	Attestation  Attestation   `json:"attestation"`
	Capabilities *Capabilities `json:"capabilities,omitempty"`
	// ParentScopes puts the device under an edge device, as in Device. It is not
	// known to the service in the cloud.
	ParentScopes       []string           `json:"parentScopes,omitempty"`
	IoTHubHostName     string             `json:"iotHubHostName,omitempty"`
	IoTHubs            []string           `json:"iotHubs,omitempty"`
	InitialTwin        json.RawMessage    `json:"initialTwin,omitempty"`
	ProvisioningStatus string             `json:"provisioningStatus,omitempty"` // Enabled or Disabled
	ReprovisionPolicy  *ReprovisionPolicy `json:"reprovisionPolicy,omitempty"`
	AllocationPolicy   string             `json:"allocationPolicy,omitempty"`
	Custom             *CustomAllocation  `json:"customAllocationDefinition,omitempty"`
	CreatedDateTimeUTC Time               `json:"createdDateTimeUtc"`
	LastUpdatedUTC     Time               `json:"lastUpdatedDateTimeUtc"`
	Etag               string             `json:"etag,omitempty"`
}

// Enrollment lets one device register.
type Enrollment struct {
	RegistrationID string `json:"registrationId"`
	DeviceID       string `json:"deviceId,omitempty"` // empty means RegistrationID
	EnrollmentTerms
	RegistrationState *RegistrationState `json:"registrationState,omitempty"` // read only
}

// EnrollmentGroup lets all devices register that hold a key or certificate derived
// from the group's.
type EnrollmentGroup struct {
	EnrollmentGroupID string `json:"enrollmentGroupId"`
	EnrollmentTerms
}

// Attestation is how a device proves itself when it registers.
type Attestation struct {
	Type         string           `json:"type"`
	SymmetricKey *SymmetricKey    `json:"symmetricKey,omitempty"`
	X509         *X509Attestation `json:"x509,omitempty"`
	TPM          *TPMAttestation  `json:"tpm,omitempty"`
}

// X509Attestation names certificates: those of the device itself (individual
// enrollments), or of the authorities that sign devices (groups), given here or by
// their names in the hub's list of authorities.
type X509Attestation struct {
	ClientCertificates  *X509Pair     `json:"clientCertificates,omitempty"`
	SigningCertificates *X509Pair     `json:"signingCertificates,omitempty"`
	CAReferences        *CAReferences `json:"caReferences,omitempty"`
}

// X509Pair is a primary and a secondary certificate.
type X509Pair struct {
	Primary   *X509Entry `json:"primary,omitempty"`
	Secondary *X509Entry `json:"secondary,omitempty"`
}

// X509Entry is a certificate, base64 of DER or PEM, and what is in it.
type X509Entry struct {
	Certificate string    `json:"certificate,omitempty"`
	Info        *X509Info `json:"info,omitempty"` // read only
}

// X509Info describes a certificate.
type X509Info struct {
	SubjectName      string `json:"subjectName"`
	SHA1Thumbprint   string `json:"sha1Thumbprint"`
	SHA256Thumbprint string `json:"sha256Thumbprint"`
	IssuerName       string `json:"issuerName"`
	NotBeforeUTC     Time   `json:"notBeforeUtc"`
	NotAfterUTC      Time   `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"`
	Version          int    `json:"version"`
}

// CAReferences are names of certificates of the hub.
type CAReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// TPMAttestation holds public keys of a TPM, base64 of TPM2B_PUBLIC.
type TPMAttestation struct {
	EndorsementKey string `json:"endorsementKey"`
	StorageRootKey string `json:"storageRootKey,omitempty"`
}

// ReprovisionPolicy says what happens when a device registers again.
type ReprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// CustomAllocation is a web hook that decides about an assignment.
type CustomAllocation struct {
	WebhookURL string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}

// RegistrationState is how far a registration got.
type RegistrationState struct {
	RegistrationID     string             `json:"registrationId"`
	CreatedDateTimeUTC Time               `json:"createdDateTimeUtc,omitzero"`
	AssignedHub        string             `json:"assignedHub,omitempty"`
	DeviceID           string             `json:"deviceId,omitempty"`
	Status             string             `json:"status"`
	Substatus          string             `json:"substatus,omitempty"`
	ErrorCode          int                `json:"errorCode,omitempty"`
	ErrorMessage       string             `json:"errorMessage,omitempty"`
	LastUpdatedUTC     Time               `json:"lastUpdatedDateTimeUtc,omitzero"`
	Etag               string             `json:"etag,omitempty"`
	Payload            json.RawMessage    `json:"payload,omitempty"`
	SymmetricKey       *RegistrationGroup `json:"symmetricKey,omitempty"`
	X509               *RegistrationX509  `json:"x509,omitempty"`
	TPM                *RegistrationTPM   `json:"tpm,omitempty"`
}

// RegistrationGroup names the group of a registration by key.
type RegistrationGroup struct {
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
}

// RegistrationX509 describes the certificate of a registration and its group.
type RegistrationX509 struct {
	CertificateInfo   *X509Info `json:"certificateInfo,omitempty"`
	EnrollmentGroupID string    `json:"enrollmentGroupId,omitempty"`
}

// RegistrationTPM carries the key of the device, wrapped for its TPM, in base64.
type RegistrationTPM struct {
	AuthenticationKey string `json:"authenticationKey,omitempty"`
}

// RegistrationOperation is the answer to a registration and to each look at it.
type RegistrationOperation struct {
	OperationID       string             `json:"operationId"`
	Status            string             `json:"status"`
	RegistrationState *RegistrationState `json:"registrationState,omitempty"`
}

// ProvisioningError is what the provisioning service answers when it refuses.
type ProvisioningError struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC Time   `json:"timestampUtc"`
}
