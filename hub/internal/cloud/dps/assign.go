package dps

import (
	"context"
	"errors"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// assign gives a device its identity in the hub: a new one, or by the enrollment's
// policy the one that it has. What the registry refuses becomes a failed
// registration; errors are those of the disk. The lock of the registration is held.
//
// Everything can be done twice: after a crash before the record is written the
// device registers anew.
func (d *Service) assign(ctx context.Context, c claim, a *admission, old *record) (rest.RegistrationState, error) {
	policy := a.enrollment.terms.ReprovisionPolicy
	again := old != nil && old.Enrollment == a.enrollment.key() && old.Device == a.device(old.State.RegistrationID)
	if again && !policy.UpdateHubAssignment && old.State.Status == rest.RegistrationAssigned {
		return old.State, nil
	}
	s := d.newState(c, old)
	if a.initial = a.enrollment.terms.InitialTwin; a.enrollment.terms.AllocationPolicy == rest.AllocateCustom {
		decided, err := d.allocate(ctx, c, a)
		if err != nil {
			return d.failed(c, old, err)
		}
		s.Payload = decided.Payload
		if decided.InitialTwin != nil {
			a.initial = decided.InitialTwin
		}
	}
	s.Status, s.AssignedHub, s.DeviceID = rest.RegistrationAssigned, d.o.HubName, a.device(s.RegistrationID)
	describeAttestation(&s, a)
	var err error
	switch {
	case again && (policy.MigrateDeviceData || !policy.UpdateHubAssignment):
		s.Substatus, err = d.migrate(ctx, s.DeviceID, a)
	case again:
		s.Substatus = rest.AssignedReset
		err = d.reset(ctx, s.DeviceID, a)
	default:
		s.Substatus = rest.AssignedInitially
		err = d.admit(ctx, s.DeviceID, a)
	}
	if err == nil && a.tpm != nil {
		err = d.wrapInto(&s, a)
	}
	if err != nil {
		return d.failed(c, old, err)
	}
	return s, nil
}

// failed is the state of a registration that came to nothing, or the error itself if
// it is not the device's or the enrollment's.
func (d *Service) failed(c claim, old *record, err error) (rest.RegistrationState, error) {
	var refused *registry.Error
	var invalidTwin *twin.InvalidError
	if !errors.As(err, &refused) && !errors.As(err, &invalidTwin) && !errors.As(err, new(allocationError)) && !errors.Is(err, twin.ErrTooLarge) {
		return rest.RegistrationState{}, fmt.Errorf("assign %s: %w", c.id, err)
	}
	s := d.newState(c, old)
	s.Status, s.ErrorCode, s.ErrorMessage = rest.RegistrationFailed, codeNotAssigned, err.Error()
	return s, nil
}

// describeAttestation tells by what a device was let in.
func describeAttestation(s *rest.RegistrationState, a *admission) {
	group := ""
	if a.enrollment.group {
		group = a.enrollment.id
	}
	switch a.enrollment.terms.Attestation.Type {
	case rest.AttestKey:
		if group != "" {
			s.SymmetricKey = &rest.RegistrationGroup{EnrollmentGroupID: group}
		}
	case rest.AttestX509:
		s.X509 = &rest.RegistrationX509{CertificateInfo: describe(a.leaf), EnrollmentGroupID: group}
	}
}

// wrapInto puts the key of the assigned device, wrapped for its TPM, into the state.
func (d *Service) wrapInto(s *rest.RegistrationState, a *admission) error {
	device, err := d.o.Hub.Registry().Device(s.DeviceID)
	if err != nil {
		return err
	}
	key, err := wrapIdentity(a, device)
	s.TPM = &rest.RegistrationTPM{AuthenticationKey: key}
	return err
}

// admit makes the device, or takes over one of its name, and applies the initial
// twin.
func (d *Service) admit(ctx context.Context, device string, a *admission) error {
	if _, err := d.putDevice(ctx, device, a); err != nil {
		return err
	}
	if len(a.initial) == 0 {
		return nil
	}
	change, err := twin.ParseChange(a.initial)
	if err != nil {
		return err
	}
	_, err = d.o.Hub.WriteTwin(ctx, iothub.DeviceIdentity(device), change, false, registry.Any)
	return err
}

// migrate leaves the device as it is, but for its credentials.
func (d *Service) migrate(ctx context.Context, device string, a *admission) (substatus string, err error) {
	if _, err := d.o.Hub.Registry().Device(device); err != nil {
		return rest.AssignedInitially, d.admit(ctx, device, a)
	}
	_, err = d.putDevice(ctx, device, a)
	return rest.AssignedMigrated, err
}

// reset makes the device anew: twin, modules and all are lost.
func (d *Service) reset(ctx context.Context, device string, a *admission) error {
	err := d.o.Hub.Registry().DeleteDevice(ctx, device, registry.Any)
	var refused *registry.Error
	if err != nil && (!errors.As(err, &refused) || refused.Code != registry.DeviceNotFound) {
		return err
	}
	return d.admit(ctx, device, a)
}

func (d *Service) putDevice(ctx context.Context, device string, a *admission) (rest.Device, error) {
	devices := d.o.Hub.Registry()
	change := registry.DeviceChange{DeviceID: device, Authentication: a.credentials}
	edge := a.enrollment.terms.Capabilities.IoTEdge
	if edge {
		change.Edge = &edge // and never the other way round: that would lose modules
	}
	if old, err := devices.Device(device); err == nil {
		if a.credentials == nil && old.Authentication.Type != rest.AuthSAS {
			change.Authentication = rest.SAS("", "") // the registry makes them
		}
		return devices.PutDevice(ctx, change, registry.Any)
	}
	if len(a.enrollment.terms.ParentScopes) > 0 {
		change.ParentScopes = &a.enrollment.terms.ParentScopes
	}
	return devices.PutDevice(ctx, change, registry.Absent)
}
