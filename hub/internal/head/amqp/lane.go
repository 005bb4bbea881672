package amqp

import "sync"

// lane does what takes time one after the other, on a goroutine that is there only
// while there is something to do.
type lane struct {
	spawn func(func())

	mu      sync.Mutex
	queue   []func()
	running bool
}

// do queues f; false when limit are waiting already (0: no limit of its own).
func (l *lane) do(f func(), limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if limit > 0 && len(l.queue) >= limit {
		return false
	}
	l.queue = append(l.queue, f)
	if !l.running {
		l.running = true
		l.spawn(l.run)
	}
	return true
}

func (l *lane) run() {
	var batch []func()
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.running = false
			l.queue = nil
			l.mu.Unlock()
			return
		}
		batch, l.queue = l.queue, batch[:0]
		l.mu.Unlock()
		for i, f := range batch {
			f()
			batch[i] = nil
		}
	}
}
