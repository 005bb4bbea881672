package api

import (
	"encoding/json"
	"strconv"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/query"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func (a *API) configuration(r *request, c rest.Configuration, err error) (answer, error) {
	if err == nil {
		err = a.hub.Measure(r.Context(), &c)
	}
	if err != nil {
		return answer{}, err
	}
	return answer{doc: c, etag: c.Etag}, nil
}

func (a *API) getConfiguration(r *request) (answer, error) {
	c, err := a.hub.Configurations().Get(r.id.Device)
	return a.configuration(r, c, err)
}

func (a *API) putConfiguration(r *request) (answer, error) {
	c, err := a.hub.Configurations().Put(r.Context(), r.id.Device, r.body, r.match())
	return a.configuration(r, c, err)
}

func (a *API) deleteConfiguration(r *request) (answer, error) {
	return answer{}, a.hub.Configurations().Delete(r.Context(), r.id.Device, r.match())
}

func (a *API) listConfigurations(r *request) (answer, error) {
	top := deployment.Max
	if v := r.URL.Query().Get("top"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return answer{}, refuse(registry.ArgumentInvalid, "top is not a positive number")
		}
		top = n
	}
	all := a.hub.Configurations().All(top)
	for i := range all {
		if err := a.hub.Measure(r.Context(), &all[i]); err != nil {
			return answer{}, err
		}
	}
	return answer{doc: all}, nil
}

func (a *API) testQueries(r *request) (answer, error) {
	var in rest.QueryTest
	if err := json.Unmarshal(r.body, &in); err != nil {
		return answer{}, refuse(registry.ArgumentInvalid, "the body is not a test of queries")
	}
	out := rest.QueryTestResult{CustomMetricQueryErrors: deployment.TestMetrics(in.CustomMetricQueries)}
	if _, err := query.ParseCondition(in.TargetCondition); err != nil {
		out.TargetConditionError = rest.Text(err.Error())
	}
	return answer{doc: out}, nil
}
