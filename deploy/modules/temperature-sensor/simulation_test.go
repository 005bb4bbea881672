package main

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"
)

var usual = limits{
	TemperatureMin: 21, TemperatureMax: 100, PressureMin: 1, PressureMax: 10,
	AmbientTemperature: 21, AmbientHumidity: 25,
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestMachineWarmsUpAndStaysNearItsMaximum(t *testing.T) {
	m := newMachine(usual, seeded())
	var last reading
	for range 2000 {
		last = m.step(time.Unix(0, 0))
		if last.Ambient.Humidity < 24 || last.Ambient.Humidity > 26 {
			t.Fatalf("humidity %d", last.Ambient.Humidity)
		}
	}
	if last.Machine.Temperature < 90 || last.Machine.Temperature > 130 {
		t.Errorf("temperature %v after warming up", last.Machine.Temperature)
	}
	m.reset()
	if got := m.step(time.Unix(0, 0)).Machine.Temperature; got > usual.TemperatureMin+1.25 {
		t.Errorf("temperature %v after a reset", got)
	}
}

func TestReadingHasTheWellKnownShape(t *testing.T) {
	body, err := newMachine(usual, seeded()).step(time.Unix(1000, 0)).encode()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	machine, ok1 := doc["machine"].(map[string]any)
	ambient, ok2 := doc["ambient"].(map[string]any)
	if !ok1 || !ok2 || len(doc) != 3 || len(machine) != 2 || len(ambient) != 2 {
		t.Fatalf("document %s", body)
	}
	for _, v := range []any{machine["temperature"], machine["pressure"], ambient["temperature"], ambient["humidity"]} {
		if _, ok := v.(float64); !ok {
			t.Errorf("value %v in %s is no number", v, body)
		}
	}
	if doc["timeCreated"] != "1970-01-01T00:16:40Z" {
		t.Errorf("timeCreated %v", doc["timeCreated"])
	}
}

func TestPressureIsDefinedWhenTheTemperatureRangeIsEmpty(t *testing.T) {
	l := usual
	l.TemperatureMax = l.TemperatureMin
	if got := newMachine(l, seeded()).step(time.Unix(0, 0)).Machine.Pressure; got != l.PressureMin {
		t.Errorf("pressure %v", got)
	}
}
