package workload

import (
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// describe writes a module's state as the API shows it.
func describe(st runtime.State) *workloadv1.Module {
	out := &workloadv1.Module{
		Id: "id", Name: st.Name, Type: "docker",
		Config: &workloadv1.ModuleConfig{
			Settings: &workloadv1.ModuleSettings{Image: st.Image, ImageHash: st.ImageID},
		},
		Status: &workloadv1.ModuleStatus{
			RuntimeStatus: &workloadv1.RuntimeStatus{Status: module.StatusWord(st)},
		},
	}
	if !st.Started.IsZero() {
		t := st.Started.UTC().Format(time.RFC3339Nano)
		out.Status.StartTime = &t
	}
	if !st.Exited.IsZero() {
		out.Status.ExitStatus = &workloadv1.ExitStatus{
			ExitTime: st.Exited.UTC().Format(time.RFC3339Nano), StatusCode: strconv.Itoa(st.ExitCode),
		}
	}
	return out
}
