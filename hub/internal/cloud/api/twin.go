package api

import (
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func twinAnswer(doc rest.Twin, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return answer{doc: doc, etag: doc.Etag}, nil
}

func (a *API) getTwin(r *request) (answer, error) { return twinAnswer(a.hub.Twin(r.id)) }

func (a *API) patchTwin(r *request) (answer, error) { return a.writeTwin(r, false) }

func (a *API) replaceTwin(r *request) (answer, error) { return a.writeTwin(r, true) }

func (a *API) writeTwin(r *request, replace bool) (answer, error) {
	c, err := twin.ParseChange(r.body)
	if err != nil {
		return answer{}, err
	}
	return twinAnswer(a.hub.WriteTwin(r.Context(), r.id, c, replace, r.match()))
}
