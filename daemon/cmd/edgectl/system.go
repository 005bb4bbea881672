package main

import (
	"errors"
	"fmt"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

type systemCmd struct {
	Reprovision reprovisionCmd `cmd:"" help:"Have the device provisioned anew: modules are stopped, and removed and deployed again."`
}

type reprovisionCmd struct{}

// Run asks the daemon, which ends and is started again by the service manager.
func (reprovisionCmd) Run(e *env) (err error) {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := managementv1.NewSystemClient(conn).Reprovision(e.ctx, &managementv1.ReprovisionRequest{}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, "the device is being provisioned anew")
	return err
}
