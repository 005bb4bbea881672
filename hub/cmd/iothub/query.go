package main

import (
	"context"
	"encoding/json"

	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type queryCommand struct {
	remote
	Text string `arg:"" help:"Query, as \"SELECT deviceId FROM devices WHERE tags.place = 'hall'\"."`
}

// queryRows is the size of a page: 1000 twins may be more than an answer may hold.
const queryRows = 100

// Run prints all rows as one JSON array.
func (q *queryCommand) Run(ctx context.Context, env environment) error {
	return q.use(func(c *rest.Client, _ connstr.String) error {
		all := []json.RawMessage{}
		for token := ""; ; {
			page, err := c.Query(ctx, q.Text, queryRows, token)
			if err != nil {
				return asked(err)
			}
			all = append(all, page.Rows...)
			if token = page.Next; token == "" {
				return printJSON(env.out, all)
			}
		}
	})
}
