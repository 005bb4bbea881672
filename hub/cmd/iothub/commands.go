package main

// commands is the command line.
type commands struct {
	Serve serveCommand `cmd:"" help:"Run the hub."`

	Device struct {
		Create           deviceCreate           `cmd:"" help:"Register a device and print its connection string."`
		Delete           deviceDelete           `cmd:"" help:"Remove a device with its modules and twins."`
		List             deviceList             `cmd:"" help:"List the devices."`
		Show             deviceShow             `cmd:"" help:"Print a device identity, keys included."`
		ConnectionString deviceConnectionString `cmd:"" help:"Print the connection string of a device or module."`
	} `cmd:"" help:"Devices."`

	Module struct {
		List moduleList `cmd:"" help:"List the modules of a device."`
		Show moduleShow `cmd:"" help:"Print a module identity, keys included."`
	} `cmd:"" help:"Modules."`

	Twin struct {
		Show  twinShow  `cmd:"" help:"Print a twin."`
		Patch twinPatch `cmd:"" help:"Change desired properties or tags of a twin."`
	} `cmd:"" help:"Twins."`

	Deployment struct {
		Create deploymentCreate `cmd:"" help:"Bring a manifest to all edge devices of a condition."`
		List   deploymentList   `cmd:"" help:"List the deployments and how far they got."`
		Show   deploymentShow   `cmd:"" help:"Print a deployment."`
		Delete deploymentDelete `cmd:"" help:"Remove a deployment; what it brought stays until another one takes over."`
	} `cmd:"" help:"Deployments for many edge devices."`

	Message struct {
		Send     messageSend     `cmd:"" help:"Send a message to a device."`
		Feedback messageFeedback `cmd:"" help:"Print and remove the feedback of messages that asked for it."`
		Purge    messagePurge    `cmd:"" help:"Remove all messages that wait for a device."`
	} `cmd:"" help:"Cloud-to-device messages."`

	Certificate struct {
		Add    certificateAdd    `cmd:"" help:"Add a certificate authority whose devices may log in."`
		List   certificateList   `cmd:"" help:"List the certificate authorities."`
		Delete certificateDelete `cmd:"" help:"Remove a certificate authority."`
		Code   certificateCode   `cmd:"" help:"Print a new verification code for an unverified authority."`
		Verify certificateVerify `cmd:"" help:"Send the proof that you have the key of an authority."`
	} `cmd:"" help:"Certificate authorities."`

	Enrollment struct {
		Add    enrollmentAdd    `cmd:"" help:"Let a device register at the provisioning service."`
		List   enrollmentList   `cmd:"" help:"List the individual enrollments."`
		Show   enrollmentShow   `cmd:"" help:"Print an enrollment, keys included."`
		Delete enrollmentDelete `cmd:"" help:"Remove an enrollment; its device stays."`
	} `cmd:"" help:"Individual enrollments for device provisioning."`

	EnrollmentGroup struct {
		Add    groupAdd    `cmd:"" help:"Let a group of devices register at the provisioning service."`
		List   groupList   `cmd:"" help:"List the enrollment groups."`
		Show   groupShow   `cmd:"" help:"Print a group, keys included, or who has registered."`
		Delete groupDelete `cmd:"" help:"Remove a group; its devices stay."`
		Key    groupKey    `cmd:"" help:"Print the key of one device, derived from that of the group."`
	} `cmd:"" help:"Enrollment groups for device provisioning."`

	ConnectionString connectionString `cmd:"" help:"Print the connection string of a policy, for back ends."`

	Deploy  deployCommand  `cmd:"" help:"Apply a deployment manifest to one edge device."`
	Method  methodCommand  `cmd:"" help:"Call a direct method and print the answer."`
	Query   queryCommand   `cmd:"" help:"Print what a query of the twins gives."`
	Monitor monitorCommand `cmd:"" help:"Print the telemetry that arrives."`
}
