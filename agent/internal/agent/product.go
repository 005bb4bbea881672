package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
	"github.com/breakwater-iot/breakwater/agent/internal/settings"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// host asks the daemon about the machine; nil when it does not answer.
func host(ctx context.Context, daemon *edged.Client, log *slog.Logger) *managementv1.SystemInfo {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	info, err := daemon.Info(ctx)
	if err != nil {
		log.Warn("host information is not part of the product information", "error", err)
		return nil
	}
	return info
}

// describe is the machine as a label of a metric.
func describe(info *managementv1.SystemInfo) string {
	if info == nil {
		return ""
	}
	text, err := json.Marshal(struct {
		OperatingSystemType, Architecture, Version, ServerVersion, KernelVersion, OperatingSystem string
		NumCpus                                                                                   uint32
		Virtualized                                                                               string
	}{
		info.GetOsType(), info.GetArchitecture(), info.GetVersion(), info.GetServerVersion(), info.GetKernelVersion(),
		info.GetOperatingSystem(), info.GetCpus(), info.GetVirtualized(),
	})
	if err != nil {
		panic("host information: " + err.Error()) // strings and numbers
	}
	return string(text)
}

// product is what the agent says of itself to the hub: its version, and the host
// unless the operator keeps that to himself.
func product(s settings.Settings, build report.Build, info *managementv1.SystemInfo) string {
	name := "EdgeAgent/" + build.Version
	if s.NoAnalytics || info == nil {
		return name
	}
	pairs := []string{
		"kernel=" + clean(info.GetOsType()),
		"architecture=" + clean(info.GetArchitecture()),
		"version=" + clean(info.GetVersion()),
		"server_version=" + clean(info.GetServerVersion()),
		"kernel_version=" + clean(info.GetKernelVersion()),
		"operating_system=" + clean(info.GetOperatingSystem()),
		fmt.Sprintf("cpus=%d", info.GetCpus()),
		fmt.Sprintf("total_memory=%.0f", info.GetTotalMemory()),
		"virtualized=" + clean(info.GetVirtualized()),
	}
	additional := info.GetAdditional()
	for _, k := range slices.Sorted(maps.Keys(additional)) {
		pairs = append(pairs, clean(k)+"="+clean(additional[k]))
	}
	return name + " (" + strings.Join(pairs, ";") + ";)"
}

// clean keeps the text from ending the list or a pair.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(";()=", r) || r < ' ' {
			return '_'
		}
		return r
	}, s)
}
