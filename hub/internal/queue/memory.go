package queue

// defaultMaxAhead is Options.MaxAhead unless it is given.
const defaultMaxAhead = 32 << 20

// Messages in memory are those that are read ahead, may pass a backlog, or are in the
// hands of readers, each with its size on disk. Queues take of one half of MaxAhead what
// they need. When that is used, each still has its share of the other half; so none can
// take all, and what all have together stays below MaxAhead, but for a chunk each: the
// one that a queue may always read whose reader has empty hands.

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

// mayLoadLocked tells whether the queue may read anything ahead: always when its reader
// has empty hands. If not, the reader is told when it may.
func (q *Queue) mayLoadLocked(f *fifo) bool {
	hands := f.memory - f.aheadBytes - f.live.bytes
	f.blocked = hands > 0 && q.roomLocked(f) <= 0
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
