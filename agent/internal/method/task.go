package method

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// status is what became of a task.
type status string

// The statuses.
const (
	notStarted status = "NotStarted"
	running    status = "Running"
	completed  status = "Completed"
	failed     status = "Failed"
	cancelled  status = "Cancelled" // the agent ended before it did
	unknown    status = "Unknown"
)

const (
	// maxTasks is how many tasks are remembered; those that ended first go first.
	maxTasks = 100
	// maxWaiting is how many may wait for a worker. One more is refused.
	maxWaiting = 16
	workers    = 2
	// taskTimeout ends a task that does not get on.
	taskTimeout = time.Hour
)

// taskStatus is the answer of methods that begin a task, and of GetTaskStatus.
type taskStatus struct {
	Status        status `json:"status"`
	Message       string `json:"message"`
	CorrelationID string `json:"correlationId"`
}

type task struct {
	taskStatus
	name string // of the method
	work func(ctx context.Context) error
}

// tasks is the memory of what was begun. It is lost when the process ends.
type tasks struct {
	queue chan *task

	mu    sync.Mutex // guards what follows and the statuses of tasks
	list  []*task    // oldest first
	ended bool       // nothing is carried out any more
}

func newTasks() *tasks { return &tasks{queue: make(chan *task, maxWaiting)} }

// add puts a task in the queue.
func (t *tasks) add(name string, work func(ctx context.Context) error) (taskStatus, error) {
	one := &task{taskStatus: taskStatus{Status: notStarted, CorrelationID: guid()}, name: name, work: work}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return taskStatus{}, fmt.Errorf("%s: the agent is ending", name)
	}
	select {
	case t.queue <- one:
	default:
		return taskStatus{}, fmt.Errorf("%s: %d tasks wait already", name, maxWaiting)
	}
	t.list = append(t.list, one)
	if len(t.list) > maxTasks {
		// There is one that has ended: the others are fewer than the list is long.
		i := slices.IndexFunc(t.list, func(o *task) bool { return o.Status == completed || o.Status == failed || o.Status == cancelled })
		t.list = slices.Delete(t.list, i, i+1)
	}
	return one.taskStatus, nil
}

func (t *tasks) find(id string) taskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, one := range t.list {
		if one.CorrelationID == id {
			return one.taskStatus
		}
	}
	return taskStatus{Status: unknown, CorrelationID: id}
}

func (t *tasks) set(one *task, s status, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one.Status, one.Message = s, message
}

// end cancels what waits, and refuses what comes.
func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for {
		select {
		case one := <-t.queue:
			one.Status, one.Message = cancelled, one.words("was cancelled: the agent is ending")
		default:
			return
		}
	}
}

// words is what is told of the task.
func (t *task) words(what string) string {
	return fmt.Sprintf("Task %s of %s %s", t.CorrelationID, t.name, what)
}

// guid is a random identifier in the usual form.
func guid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Run carries out tasks until ctx ends, and returns nil. Those that wait or are under way
// then are cancelled, which can be asked for as long as the process answers.
func (h *Handler) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	for range workers {
		wait.Go(func() {
			for ctx.Err() == nil {
				select {
				case one := <-h.tasks.queue:
					h.carryOut(ctx, one)
				case <-ctx.Done():
				}
			}
		})
	}
	wait.Wait()
	h.tasks.end()
	return nil
}

func (h *Handler) carryOut(ctx context.Context, one *task) {
	h.tasks.set(one, running, "")
	limited, cancel := context.WithTimeout(ctx, taskTimeout)
	defer cancel()
	err := one.work(limited)
	switch {
	case err == nil:
		h.opts.Log.Info("task completed", "task", one.CorrelationID, "method", one.name)
		h.tasks.set(one, completed, "")
	case ctx.Err() != nil:
		h.opts.Log.Info("task cancelled", "task", one.CorrelationID, "method", one.name)
		h.tasks.set(one, cancelled, one.words("was cancelled: the agent is ending"))
	default:
		h.opts.Log.Warn("task failed", "task", one.CorrelationID, "method", one.name, "error", err)
		h.tasks.set(one, failed, one.words(fmt.Sprintf("failed: %v", err)))
	}
}

func (h *Handler) taskStatus(_ context.Context, payload json.RawMessage) (any, error) {
	var r struct{ CorrelationID string }
	if err := decode(payload, &r); err != nil {
		return nil, err
	}
	if r.CorrelationID == "" {
		return nil, bad("correlationId is missing")
	}
	return h.tasks.find(r.CorrelationID), nil
}
