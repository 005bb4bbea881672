package bench_test

import (
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/e2e/bench"
)

const twoRounds = `goos: linux
pkg: example.org/x/hub/amqp/wire
BenchmarkEncode/256B/by=hub-2                 1000   100.0 ns/op   0 B/op   0 allocs/op
BenchmarkEncode/256B/by=hub,_new_buffer-2     1000   200.0 ns/op  16 B/op   1 allocs/op
BenchmarkAlone-2                                10   2500000 ns/op   4096.7 MB/s
PASS
pkg: example.org/x/hub/amqp/wire
BenchmarkEncode/256B/by=hub-2                 1000   120.0 ns/op   0 B/op   0 allocs/op
BenchmarkEncode/256B/by=hub,_new_buffer-2     1000   210.0 ns/op  16 B/op   1 allocs/op
BenchmarkAlone-2                                10   1500000 ns/op   4000.0 MB/s
PASS
pkg: example.org/x/hub/amqp/wire
BenchmarkEncode/256B/by=hub-2                 1000   110.0 ns/op   0 B/op   0 allocs/op
BenchmarkEncode/256B/by=hub,_new_buffer-2     1000   330.0 ns/op  16 B/op   1 allocs/op
BenchmarkAlone-2                                10   2000000 ns/op   4010.0 MB/s
`

func TestPartsPrintsMediansAndRatios(t *testing.T) {
	var out strings.Builder
	if err := bench.Parts(strings.NewReader(twoRounds), &out, func(string) {}); err != nil {
		t.Fatal(err)
	}
	const want = `
hub/amqp/wire                time    ratio   bytes  allocations  
Encode/256B/hub              110 ns  1       0      0            
            hub, new buffer  210 ns  1.91 x  16     1            
Alone                        2 ms                                4010 MB/s

median of 3 rounds
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPartsFailsWithABenchmark(t *testing.T) {
	for _, line := range []string{"--- FAIL: BenchmarkX", "FAIL\tpkg\t1s", "panic: no", "BenchmarkX-2 1 many ns/op"} {
		if err := bench.Parts(strings.NewReader(line+"\n"), new(strings.Builder), func(string) {}); err == nil {
			t.Errorf("no error for %q", line)
		}
	}
}
