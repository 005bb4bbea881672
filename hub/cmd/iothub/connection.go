package main

import (
	"context"
	"fmt"

	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type connectionString struct {
	remote
	EventHub bool `help:"That of the event-hub-compatible endpoint, for clients of event hubs."`
}

// Run prints the connection string of the policy of the login.
func (s *connectionString) Run(ctx context.Context, env environment) error {
	if !s.EventHub {
		login, err := s.login()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(env.out, login.Reveal())
		return err
	}
	return s.use(func(c *rest.Client, login connstr.String) error {
		e, err := c.EventHub(ctx)
		if err != nil {
			return asked(err)
		}
		_, err = fmt.Fprintf(env.out, "Endpoint=sb://%s/;SharedAccessKeyName=%s;SharedAccessKey=%s;EntityPath=%s\n",
			e.Host, login.SharedAccessKeyName, login.SharedAccessKey.Base64(), e.Name)
		return err
	})
}
