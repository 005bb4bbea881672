package api

import (
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// The certificate authorities of the hub, in the form that the management of
// resources has in the cloud. The name stands where other paths have a device id.

func certificate(c rest.Certificate, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return answer{doc: c, etag: c.Etag}, nil
}

func (a *API) listCertificates(*request) (answer, error) {
	return answer{doc: map[string]any{"value": a.hub.Authorities().All()}}, nil
}

func (a *API) getCertificate(r *request) (answer, error) {
	return certificate(a.hub.Authorities().Get(r.id.Device))
}

func (a *API) putCertificate(r *request) (answer, error) {
	return certificate(a.hub.Authorities().Put(r.Context(), r.id.Device, r.body, r.match()))
}

func (a *API) deleteCertificate(r *request) (answer, error) {
	return answer{}, a.hub.Authorities().Delete(r.Context(), r.id.Device, r.match())
}

func (a *API) certificateCode(r *request) (answer, error) {
	return certificate(a.hub.Authorities().Code(r.Context(), r.id.Device, r.match()))
}

func (a *API) verifyCertificate(r *request) (answer, error) {
	return certificate(a.hub.Authorities().Verify(r.Context(), r.id.Device, r.body, r.match()))
}
