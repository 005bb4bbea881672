package rig

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// memoryWatch keeps the largest resident size that each program had.
type memoryWatch struct {
	mu     sync.Mutex
	peak   map[string]int // kB
	pids   map[string]int // programs outside containers
	cancel context.CancelFunc
	done   chan struct{}
}

func watchMemory() *memoryWatch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &memoryWatch{peak: make(map[string]int), pids: make(map[string]int), cancel: cancel, done: make(chan struct{})}
	go w.loop(ctx)
	return w
}

func (w *memoryWatch) add(name string, pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids[name] = pid
}

func (w *memoryWatch) stop() {
	w.cancel()
	<-w.done
}

func (w *memoryWatch) loop(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		tasks, err := Tasks(ctx)
		if err != nil {
			tasks = nil // containerd is busy or gone: look again at the next tick
		}
		w.mu.Lock()
		for name, pid := range w.pids {
			w.peak[name] = max(w.peak[name], peakOf(pid))
		}
		for _, t := range tasks {
			w.peak[t.Name] = max(w.peak[t.Name], peakOf(t.PID))
		}
		w.mu.Unlock()
	}
}

// peakOf is the process's own high-water mark (VmHWM) in kB, 0 if it has ended.
func peakOf(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		var kb int
		if rest, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			if _, err := fmt.Sscan(rest, &kb); err == nil {
				return kb
			}
		}
	}
	return 0
}

// Memory is what a process has in RAM, in kB.
type Memory struct {
	Resident int // all pages that are mapped
	Own      int // of these, anonymous ones: heap and stacks
	Share    int // pages that n processes have in common count as 1/n
}

// Memory tells what edged and the running modules have in RAM now.
func (r *Rig) Memory(ctx context.Context) (map[string]Memory, error) {
	pids, err := r.PIDs(ctx)
	if err != nil {
		return nil, err
	}
	pids["edged"] = r.edged.PID()
	out := make(map[string]Memory, len(pids))
	for name, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return nil, fmt.Errorf("memory of %s: %w", name, err)
		}
		var m Memory
		for line := range strings.Lines(string(text)) {
			field, rest, _ := strings.Cut(line, ":")
			to := map[string]*int{"Rss": &m.Resident, "Anonymous": &m.Own, "Pss": &m.Share}[field]
			if to == nil {
				continue
			}
			if _, err := fmt.Sscan(rest, to); err != nil {
				return nil, fmt.Errorf("memory of %s: %q: %w", name, line, err)
			}
		}
		out[name] = m
	}
	return out, nil
}

// PeakMemory returns the largest resident size seen of each program, in kB.
func (r *Rig) PeakMemory() map[string]int {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	out := make(map[string]int, len(r.memory.peak))
	for k, v := range r.memory.peak {
		out[k] = v
	}
	return out
}

func goarch() string { return runtime.GOARCH }
