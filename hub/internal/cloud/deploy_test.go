package cloud_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// content is that of a base deployment with one module of its own.
func content(mark, module string) string {
	return fmt.Sprintf(`{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{},"systemModules":{},"mark":%q}},%q:{"properties.desired":{"of":%q}}}`, mark, module, mark)
}

func (b *bench) configure(id, condition string, priority int, content string) {
	b.t.Helper()
	body := fmt.Sprintf(`{"targetCondition":%q,"priority":%d,"content":{"modulesContent":%s}}`, condition, priority, content)
	if _, err := b.Configurations().Put(b.t.Context(), id, []byte(body), registry.Absent); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) tag(device, tags string) {
	b.t.Helper()
	b.patch(iothub.DeviceIdentity(device), `{"tags":`+tags+`}`)
}

func (b *bench) patch(id iothub.Identity, body string) {
	b.t.Helper()
	c, err := twin.ParseChange([]byte(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.WriteTwin(b.t.Context(), id, c, false, registry.Any); err != nil {
		b.t.Fatal(err)
	}
}

// mark is that of the deployment that a module of a device is of, with the statuses of
// all of them for the agent.
func (b *bench) mark(device, module string) string {
	b.t.Helper()
	doc, err := b.Twin(iothub.ModuleIdentity(device, module))
	if err != nil {
		return err.Error()
	}
	var desired struct{ Mark, Of string }
	if err := json.Unmarshal(doc.Properties.Desired, &desired); err != nil {
		b.t.Fatal(err)
	}
	statuses, err := json.Marshal(doc.Configurations)
	if err != nil {
		b.t.Fatal(err)
	}
	if module != iothub.AgentModule {
		return desired.Of
	}
	return desired.Mark + " " + strings.NewReplacer(`{"status":`, "", `}`, "", `{`, "", `"`, "").Replace(string(statuses))
}

func (b *bench) waitMark(device, module, want string) {
	b.t.Helper()
	if !eventually(func() bool { return b.mark(device, module) == want }) {
		b.t.Fatalf("%s of %s is %q, want %q", module, device, b.mark(device, module), want)
	}
}

// eventually tells whether something holds before long.
func eventually(holds func() bool) bool {
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
	return true
}

func TestDeploymentsFollowTheirCondition(t *testing.T) {
	b := newBench(t, nil)
	for _, id := range []string{"e1", "e2"} {
		b.edge(id)
	}
	b.device(registry.DeviceChange{DeviceID: "leaf"})
	b.configure("base", "tags.place = 'hall'", 1, content("base", "temp"))
	b.tag("e1", `{"place":"hall"}`)
	b.tag("leaf", `{"place":"hall"}`)
	b.waitMark("e1", "$edgeAgent", "base base:Applied")
	b.waitMark("e1", "temp", "base")
	if got := b.mark("e2", "$edgeAgent"); got != " null" {
		t.Errorf("e2 is %q", got)
	}

	// A higher one takes over; a module that it does not name keeps nothing.
	b.configure("high", "tags.place = 'hall'", 2, content("high", "other"))
	b.waitMark("e1", "$edgeAgent", "high base:Targeted,high:Applied")
	b.waitMark("e1", "other", "high")
	b.waitMark("e1", "temp", "")

	// Without it the lower one is back.
	if err := b.Configurations().Delete(t.Context(), "high", registry.Absent); err != nil {
		t.Fatal(err)
	}
	b.waitMark("e1", "$edgeAgent", "base base:Applied")
	b.waitMark("e1", "temp", "base")

	// What nobody deploys any more stays.
	b.tag("e1", `{"place":"yard"}`)
	b.waitMark("e1", "$edgeAgent", "base null")
	b.tag("e2", `{"place":"hall"}`)
	b.waitMark("e2", "$edgeAgent", "base base:Applied")
	if got := b.mark("e1", "temp"); got != "base" {
		t.Errorf("temp is %q", got)
	}
}

func TestDeploymentsTakeBackWhatIsWrittenByHand(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	b.configure("base", "*", 1, content("base", "temp"))
	b.waitMark("edge", "$edgeAgent", "base base:Applied")
	b.patch(iothub.ModuleIdentity("edge", "temp"), `{"properties":{"desired":{"of":"hand"}}}`)
	b.waitMark("edge", "temp", "base")
	if err := b.apply(`{"modulesContent":` + content("manifest", "temp") + `}`); err != nil {
		t.Fatal(err)
	}
	b.waitMark("edge", "$edgeAgent", "base base:Applied")
	b.waitMark("edge", "temp", "base")
}

func TestDeploymentThatDoesNotFitIsOnlyTargeted(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	b.configure("base", "*", 1, content("base", "temp"))
	b.waitMark("edge", "$edgeAgent", "base base:Applied")
	long := `"` + strings.Repeat("x", 4000) + `"`
	b.configure("big", "*", 2, `{"temp":{"properties.desired.list":[`+strings.Repeat(long+",", 9)+long+`]}}`)
	b.waitMark("edge", "$edgeAgent", "base base:Targeted,big:Targeted")
	if err := b.Configurations().Delete(t.Context(), "big", registry.Absent); err != nil {
		t.Fatal(err)
	}
	b.waitMark("edge", "$edgeAgent", "base base:Applied")
}

// A round that the end of the hub interrupts is done by the next start, and is nothing
// that an operator has to look into.
func TestDeploymentsThatTheEndInterruptsAreNoFailures(t *testing.T) {
	b := newBench(t, nil)
	for i := range 300 {
		b.edge(fmt.Sprintf("edge%03d", i))
	}
	b.configure("base", "*", 1, content("base", "temp"))
	b.waitMark("edge000", "$edgeAgent", "base base:Applied")
	b.stop()
	if got := b.log.String(); got != "" {
		t.Error(got)
	}
	again := openBench(t, b.store, nil)
	for i := range 300 {
		if got := again.mark(fmt.Sprintf("edge%03d", i), "$edgeAgent"); strings.Contains(got, "Targeted") {
			t.Errorf("edge%03d is %q", i, got)
		}
	}
}

func TestMetricsOfADeployment(t *testing.T) {
	b := newBench(t, nil)
	for _, id := range []string{"e1", "e2", "e3"} {
		b.edge(id)
	}
	b.configure("base", "deviceId != 'e3'", 1, content("base", "temp"))
	for _, id := range []string{"e1", "e2"} {
		b.waitMark(id, "$edgeAgent", "base base:Applied")
	}
	if got := b.measured("base"); got != "appliedCount 2, reportedFailedCount 0, reportedSuccessfulCount 0, targetedCount 2" {
		t.Error(got)
	}
	for id, code := range map[string]int{"e1": 200, "e2": 500} {
		agent := iothub.ModuleIdentity(id, iothub.AgentModule)
		if _, err := b.Registry().PutModule(t.Context(), registry.ModuleChange{ID: agent, Authentication: rest.SAS("", "")}, registry.Any); err != nil {
			t.Fatal(err)
		}
		s := b.connect(agent, newFake())
		if _, err := s.PatchReported(t.Context(), json.RawMessage(fmt.Sprintf(`{"lastDesiredVersion":2,"lastDesiredStatus":{"code":%d}}`, code)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.measured("base"); got != "appliedCount 2, reportedFailedCount 1, reportedSuccessfulCount 1, targetedCount 2" {
		t.Error(got)
	}
}

func (b *bench) measured(id string) string {
	b.t.Helper()
	c, err := b.Configurations().Get(id)
	if err == nil {
		err = b.Measure(b.t.Context(), &c)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var all []string
	for name, n := range c.SystemMetrics.Results {
		all = append(all, fmt.Sprintf("%s %d", name, n))
	}
	return strings.Join(sorted(all), ", ")
}

func TestDeploymentsOutliveARestart(t *testing.T) {
	b := newBench(t, nil)
	b.edge("edge")
	b.configure("base", "*", 1, content("base", "temp"))
	b.waitMark("edge", "$edgeAgent", "base base:Applied")
	b.stop()
	again := openBench(t, b.store, nil)
	if got := again.mark("edge", "$edgeAgent"); got != "base base:Applied" {
		t.Errorf("after a restart: %q", got)
	}
	if err := again.Registry().DeleteDevice(t.Context(), "edge", registry.Any); err != nil {
		t.Fatal(err)
	}
	again.edge("edge") // of the same name: nothing of the old one is left
	again.waitMark("edge", "$edgeAgent", "base base:Applied")
}

// What was deployed on a device goes with it: one of the same name has had nothing.
func TestNothingIsRememberedOfADeviceThatIsGone(t *testing.T) {
	b := newBench(t, nil)
	noted := func(device string) bool {
		_, err := b.store.Bucket("cloud.deployed").Get(device)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	for _, id := range []string{"gone", "plain"} {
		b.edge(id)
	}
	b.configure("base", "*", 1, content("base", "temp"))
	for _, id := range []string{"gone", "plain"} {
		b.waitMark(id, "$edgeAgent", "base base:Applied")
		if !eventually(func() bool { return noted(id) }) {
			t.Fatalf("no note of %s", id)
		}
	}
	if err := b.Registry().DeleteDevice(t.Context(), "gone", registry.Any); err != nil {
		t.Fatal(err)
	}
	no := false
	b.update(registry.DeviceChange{DeviceID: "plain", Edge: &no})
	for _, id := range []string{"gone", "plain"} {
		if !eventually(func() bool { return !noted(id) }) {
			t.Errorf("the note of %s stays", id)
		}
	}
}
