package client

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// counted counts the writes to the network.
type counted struct {
	net.Conn
	writes int
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}

func TestWritesGoOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		network := &counted{Conn: near}
		g := newGathered(network, time.Minute)
		var want []byte
		for i := range 1000 { // nobody reads yet
			b := []byte{byte(i), byte(i >> 8)}
			want = append(want, b...)
			if n, err := g.Write(b); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			if i == 0 {
				synctest.Wait() // the first is on its way
			}
		}
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(far)
			got <- b
		}()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if b := <-got; !bytes.Equal(b, want) || network.writes != 2 {
			t.Errorf("%d bytes in %d writes", len(b), network.writes)
		}
		if _, err := g.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after the end: %v", err)
		}
	})
}

func TestWriteWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		g := newGathered(near, time.Hour)
		chunk := make([]byte, gatherLimit)
		wrote := 0
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range 5 {
				if _, err := g.Write(chunk); err != nil {
					t.Error(err)
				}
				wrote++
			}
		}()
		synctest.Wait()
		if wrote != 2 { // one with the network, one waits
			t.Errorf("%d writes", wrote)
		}
		read := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, far)
			read <- n
		}()
		<-ended
		_ = g.Close()
		if n := <-read; n != 5*gatherLimit {
			t.Errorf("%d bytes arrived", n)
		}
	})
}

func TestErrorsComeWithALaterWrite(t *testing.T) {
	for name, breakIt := range map[string]func(near, far net.Conn){
		"closed":   func(_, far net.Conn) { _ = far.Close() },
		"not read": func(net.Conn, net.Conn) {},
		"hung up":  func(near, _ net.Conn) { _ = near.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				g := newGathered(near, time.Minute)
				if _, err := g.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				breakIt(near, far)
				time.Sleep(2 * time.Minute)
				_, err := g.Write([]byte("x"))
				if err == nil || name == "not read" && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("error %v", err)
				}
				start := time.Now()
				_ = g.Close()
				if time.Since(start) != 0 {
					t.Error("the end waits for a network that is gone")
				}
				_ = far.Close()
			})
		})
	}
}
