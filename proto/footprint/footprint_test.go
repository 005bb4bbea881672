package footprint_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/footprint"
)

// resident is the resident memory of this process that belongs to files, in kB.
func resident(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); fields[0] == "RssFile:" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile")
	return 0
}

// touch maps all pages of this program.
func touch(t *testing.T) {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x r", &from, &to); err != nil || !strings.HasSuffix(line, " "+exe+"\n") {
			continue
		}
		if _, err := io.Copy(io.Discard, io.NewSectionReader(mem, from, to-from)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTrimGivesPagesOfTheProgramBack(t *testing.T) {
	touch(t) // how much a start has mapped differs
	before := resident(t)
	if err := footprint.Trim(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t); after > before*3/4 {
		t.Errorf("%d kB before, %d kB after", before, after)
	}
	// What was given back works on.
	if s := strconv.Quote(strings.Repeat("x", 3)); s != `"xxx"` {
		t.Error(s)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := footprint.Run(ctx); err != nil {
		t.Error(err)
	}
}
