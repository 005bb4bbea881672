module github.com/breakwater-iot/breakwater/e2e

go 1.26.6

require (
	github.com/alecthomas/kong v1.17.0
	github.com/google/go-containerregistry v0.22.1
	golang.org/x/sync v0.25.0
)

require golang.org/x/sys v0.50.0 // indirect

replace github.com/breakwater-iot/breakwater/proto => ../proto
