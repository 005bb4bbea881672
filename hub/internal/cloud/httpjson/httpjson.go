// Package httpjson is what the REST APIs of iothub share: how a path is read and how a
// document is answered.
package httpjson

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// Segments splits a path and decodes each part once; a slash at the end is tolerated.
// It reports false for an empty part or a wrong escape.
func Segments(u *url.URL) ([]string, bool) {
	parts := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i, p := range parts {
		v, err := url.PathUnescape(p)
		if err != nil || v == "" {
			return nil, false
		}
		parts[i] = v
	}
	return parts, true
}

// Write answers with a document.
func Write(w http.ResponseWriter, status int, doc any) {
	raw, err := json.Marshal(doc)
	if err != nil { // documents are ours and encode
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // the client may be gone
}
