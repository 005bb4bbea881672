package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// settings come from the environment.
type settings struct {
	limits
	count int // messages to send; negative: no end
	delay time.Duration
}

// settingsFrom reads the environment; names are those of the original.
func settingsFrom(getenv func(string) string) (settings, error) {
	var errs []error
	number := func(name string, fallback float64) float64 {
		v := getenv(name)
		if v == "" {
			return fallback
		}
		f, err := strconv.ParseFloat(v, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is %q: want a number", name, v))
		}
		return f
	}
	s := settings{count: int(number("MessageCount", 500)), delay: 5 * time.Second}
	s.TemperatureMin = number("SimulatorConfig__MachineTempMin", 21)
	s.TemperatureMax = number("SimulatorConfig__MachineTempMax", 100)
	s.PressureMin = number("SimulatorConfig__MachinePressureMin", 1)
	s.PressureMax = number("SimulatorConfig__MachinePressureMax", 10)
	s.AmbientTemperature = number("SimulatorConfig__AmbientTemp", 21)
	s.AmbientHumidity = int(number("SimulatorConfig__AmbientHumidityPercent", 25))
	if v := getenv("MessageDelay"); v != "" {
		d, err := parseSpan(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("MessageDelay: %w", err))
		}
		s.delay = d
	}
	return s, errors.Join(errs...)
}

// parseSpan reads a time span as "hh:mm:ss[.fraction]".
func parseSpan(v string) (time.Duration, error) {
	bad := fmt.Errorf("%q: want hh:mm:ss, more than zero", v)
	parts := strings.Split(v, ":")
	if len(parts) != 3 {
		return 0, bad
	}
	hours, err1 := strconv.ParseUint(parts[0], 10, 16)
	minutes, err2 := strconv.ParseUint(parts[1], 10, 8)
	seconds, err3 := strconv.ParseFloat(parts[2], 64)
	if errors.Join(err1, err2, err3) != nil || minutes > 59 || !(seconds >= 0 && seconds < 60) {
		return 0, bad
	}
	d := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute + time.Duration(seconds*float64(time.Second))
	if d <= 0 {
		return 0, bad
	}
	return d, nil
}
