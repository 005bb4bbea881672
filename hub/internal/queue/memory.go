package queue

// defaultMaxAhead is Options.MaxAhead unless it is given.
const defaultMaxAhead = 32 << 20

// Messages in memory are those that are read ahead, may pass a backlog, or are in the
// hands of readers, each with its size on disk. Queues take of one half of MaxAhead what
// they need. When that is used, each still has its share of the other half; so none can
// take all, and what all have together stays below MaxAhead, but for a chunk each: the
// one that a queue of which nothing is in memory may always read.

// roomLocked is how many bytes of the queue may come into memory.
func (q *Queue) roomLocked(f *fifo) int {
	half := q.o.MaxAhead / 2
	return max(half-q.memory, half/max(1, len(q.fifos))-f.memory)
}

// holdLocked counts what comes into memory, and with a negative size what leaves it.
func (q *Queue) holdLocked(f *fifo, size int) {
	f.memory += size
	q.memory += size
}

// mayLoadLocked tells whether the queue may read anything ahead. If not, its reader is
// told when it may.
func (q *Queue) mayLoadLocked(f *fifo) bool {
	f.blocked = f.memory > 0 && q.roomLocked(f) <= 0
	return !f.blocked
}

// unblockLocked tells a reader that has met a bound when there is room.
func (q *Queue) unblockLocked(f *fifo) {
	if !f.blocked || !q.mayLoadLocked(f) {
		return
	}
	if e := q.endpoints[f.name.endpoint]; e != nil {
		e.nudge()
	}
}
