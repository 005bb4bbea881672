package ocimap

import (
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/health"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// healthcheck takes the check of the options, each part of it that is not given from
// the image, and the rest from Docker's defaults.
func (b *builder) healthcheck() error {
	const path = "Healthcheck"
	var h createopts.Healthcheck
	if o := b.opts.Healthcheck; o != nil {
		h = *o
	}
	for _, v := range []struct {
		name string
		n    int64
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if v.n != 0 && v.n < int64(time.Millisecond) {
			return invalid(path+"."+v.name, "%d nanoseconds are less than 1 ms", v.n)
		}
	}
	if h.Retries < 0 {
		return invalid(path+".Retries", "%d", h.Retries)
	}
	if i := b.in.Healthcheck; i != nil {
		if len(h.Test) == 0 {
			h.Test = i.Test
		}
		h.Interval, h.Timeout = first(h.Interval, i.Interval), first(h.Timeout, i.Timeout)
		h.StartPeriod, h.StartInterval = first(h.StartPeriod, i.StartPeriod), first(h.StartInterval, i.StartInterval)
		h.Retries = first(h.Retries, i.Retries)
	}
	args, err := testCommand(h.Test)
	if err != nil || args == nil {
		return err
	}
	b.plan.Record.Health = &health.Check{
		Args:          args,
		Interval:      time.Duration(first(h.Interval, int64(health.DefaultInterval))),
		StartInterval: time.Duration(first(h.StartInterval, int64(health.DefaultStartInterval))),
		Timeout:       time.Duration(first(h.Timeout, int64(health.DefaultTimeout))),
		StartPeriod:   time.Duration(max(h.StartPeriod, 0)),
		Retries:       first(h.Retries, health.DefaultRetries),
	}
	return nil
}

// first is a if it is given, else b.
func first[T int | int64](a, b T) T {
	if a > 0 {
		return a
	}
	return b
}

// testCommand reads Test; nil is no check.
func testCommand(test []string) ([]string, error) {
	switch {
	case len(test) == 0, test[0] == "NONE", test[0] == "":
		return nil, nil
	case test[0] == "CMD" && len(test) > 1:
		return slices.Clone(test[1:]), nil
	case test[0] == "CMD-SHELL" && len(test) == 2:
		return []string{"/bin/sh", "-c", test[1]}, nil
	}
	return nil, invalid("Healthcheck.Test", "%q is not [\"CMD\", command…], [\"CMD-SHELL\", line] or [\"NONE\"]", test)
}
