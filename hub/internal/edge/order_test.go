package edge_test

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// A module that loses its connection again and again, at any moment, and gets new
// routes meanwhile, sees its messages in order: duplicates perhaps, but none before
// an earlier one.
func TestInputMessagesDoNotOvertakeEachOther(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		const n = 600
		sender := r.connect(mod)
		var seen []string
		version := 2
		sent := 0
		for round := 0; sent < n || round < 60; round++ {
			d := r.connect(sink)
			if rand.N(2) == 0 {
				d.set(func() { d.fall = "*" }) // nothing is settled before the connection is lost
			}
			cut := make(chan struct{})
			go func() {
				defer close(cut)
				time.Sleep(time.Duration(rand.N(3000)) * time.Millisecond)
				d.end(errors.New("broken"))
			}()
			d.session.Subscribe(head.Inputs)
			for range rand.N(30) {
				if sent < n {
					sender.send("out", strconv.Itoa(sent))
					sent++
				}
			}
			if rand.N(4) == 0 {
				version++
				r.cloud.setDesired(config(version, `"r0":"`+strings.ReplaceAll(toSink, `"`, `\"`)+`"`))
			}
			<-cut
			seen = append(seen, strings.Fields(d.list())...)
		}
		last := r.connect(sink, head.Inputs)
		time.Sleep(5 * time.Minute)
		seen = append(seen, strings.Fields(last.list())...)
		next := 0
		for i, s := range seen {
			k, err := strconv.Atoi(strings.TrimPrefix(s, "in:"))
			if err != nil || k > next {
				t.Fatalf("delivery %d is %q, and %d has not come yet", i, s, next)
			}
			if k == next {
				next++
			}
		}
		if next != n {
			t.Errorf("%d messages of %d have come", next, n)
		}
	})
}

// The engine hands over more before it has seen that an earlier message has come
// back.
func TestMessageAfterOneThatCameBackWaits(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		sender.send("out", "0", "1", "2")
		d := r.connect(sink)
		d.set(func() {
			d.fall = "0"
			d.hook = func(body string) {
				d.mu.Lock()
				open := d.open
				d.fall, d.open = "", nil
				d.mu.Unlock()
				for _, settle := range open {
					settle(head.Abandon)
				}
			}
		})
		d.session.Subscribe(head.Inputs)
		time.Sleep(10 * time.Second)
		if d.list() != "in:0 in:1 in:0 in:2" {
			t.Errorf("delivered %s", d.list())
		}
	})
}
