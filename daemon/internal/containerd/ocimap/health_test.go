package ocimap_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

func TestHealthcheck(t *testing.T) {
	const s = 1_000_000_000
	image := &createopts.Healthcheck{Test: []string{"CMD-SHELL", "image"}, Interval: 7 * s, Retries: 9}
	for name, tc := range map[string]struct {
		options string
		image   *createopts.Healthcheck
		want    string
	}{
		"none":                {`{}`, nil, `null`},
		"of the image":        {`{}`, image, `{"args":["/bin/sh","-c","image"],"interval":7000000000,"startInterval":5000000000,"timeout":30000000000,"retries":9}`},
		"defaults":            {`{"Healthcheck":{"Test":["CMD","/a","b"]}}`, nil, `{"args":["/a","b"],"interval":30000000000,"startInterval":5000000000,"timeout":30000000000,"retries":3}`},
		"all given":           {`{"Healthcheck":{"Test":["CMD-SHELL","x"],"Interval":1000000000,"Timeout":2000000000,"StartPeriod":3000000000,"StartInterval":4000000000,"Retries":5}}`, image, `{"args":["/bin/sh","-c","x"],"interval":1000000000,"startInterval":4000000000,"timeout":2000000000,"startPeriod":3000000000,"retries":5}`},
		"parts of the image":  {`{"Healthcheck":{"Timeout":2000000000}}`, image, `{"args":["/bin/sh","-c","image"],"interval":7000000000,"startInterval":5000000000,"timeout":2000000000,"retries":9}`},
		"test of the options": {`{"Healthcheck":{"Test":["CMD","/a"]}}`, image, `{"args":["/a"],"interval":7000000000,"startInterval":5000000000,"timeout":30000000000,"retries":9}`},
		"switched off":        {`{"Healthcheck":{"Test":["NONE"]}}`, image, `null`},
		"parts of nothing":    {`{"Healthcheck":{"Retries":2}}`, nil, `null`},
	} {
		in := input(t, tc.options)
		in.Healthcheck = tc.image
		p, err := ocimap.Build(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := json.Marshal(p.Record.Health); err != nil || string(got) != tc.want {
			t.Errorf("%s: %s (%v), want %s", name, got, err, tc.want)
		}
	}
	for _, bad := range []string{`{"Test":["CMD"]}`, `{"Test":["CMD-SHELL","a","b"]}`, `{"Test":["/a"]}`, `{"Interval":5}`, `{"Timeout":-1}`, `{"Retries":-1}`} {
		if _, err := ocimap.Build(input(t, `{"Healthcheck":`+bad+`}`)); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
