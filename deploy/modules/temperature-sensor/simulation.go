package main

import (
	"encoding/json"
	"math/rand/v2"
	"time"
)

// limits are the bounds of the simulated machine.
type limits struct {
	TemperatureMin, TemperatureMax float64 // degrees Celsius
	PressureMin, PressureMax       float64 // bar
	AmbientTemperature             float64 // degrees Celsius
	AmbientHumidity                int     // per cent
}

// reading is one telemetry message. Its shape is the well-known one of the field's
// simulated sensor.
type reading struct {
	Machine struct {
		Temperature float64 `json:"temperature"`
		Pressure    float64 `json:"pressure"`
	} `json:"machine"`
	Ambient struct {
		Temperature float64 `json:"temperature"`
		Humidity    int     `json:"humidity"`
	} `json:"ambient"`
	TimeCreated string `json:"timeCreated"`
}

func (r reading) encode() ([]byte, error) { return json.Marshal(r) }

// machine is the state of the simulation: a machine that warms up from its lowest
// temperature, and wavers once it is hot.
type machine struct {
	limits
	temperature float64
	random      *rand.Rand
}

func newMachine(l limits, random *rand.Rand) *machine {
	m := &machine{limits: l, random: random}
	m.reset()
	return m
}

// reset lets the machine cool down.
func (m *machine) reset() { m.temperature = m.TemperatureMin }

// step lets time pass and reads the sensors.
func (m *machine) step(now time.Time) reading {
	if m.temperature > m.TemperatureMax {
		m.temperature += m.random.Float64() - 0.5
	} else {
		m.temperature += -0.25 + m.random.Float64()*1.5
	}
	var r reading
	r.Machine.Temperature = m.temperature
	r.Machine.Pressure = m.PressureMin
	if span := m.TemperatureMax - m.TemperatureMin; span > 0 {
		r.Machine.Pressure += (m.temperature - m.TemperatureMin) * (m.PressureMax - m.PressureMin) / span
	}
	r.Ambient.Temperature = m.AmbientTemperature + m.random.Float64() - 0.5
	r.Ambient.Humidity = m.AmbientHumidity - 1 + m.random.IntN(3)
	r.TimeCreated = now.UTC().Format(time.RFC3339Nano)
	return r
}
