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

	Message struct {
		Send     messageSend     `cmd:"" help:"Send a message to a device."`
		Feedback messageFeedback `cmd:"" help:"Print and remove the feedback of messages that asked for it."`
		Purge    messagePurge    `cmd:"" help:"Remove all messages that wait for a device."`
	} `cmd:"" help:"Cloud-to-device messages."`

	Deploy  deployCommand  `cmd:"" help:"Apply a deployment manifest to an edge device."`
	Method  methodCommand  `cmd:"" help:"Call a direct method and print the answer."`
	Monitor monitorCommand `cmd:"" help:"Print the telemetry that arrives."`
}
