package faultdisk

import "slices"

// lose makes what is left after a power cut the content of the disk. d.mu is held.
func (d *Disk) lose(l Loss) {
	keep := 0
	if l != DropAll {
		keep = d.rand.IntN(len(d.changes) + 1)
	}
	for _, c := range d.changes[:keep] {
		d.makeDurable(c)
	}
	d.changes = nil
	for _, n := range d.nodes {
		if n.isDir() {
			continue
		}
		d.loseContent(n, l)
	}
	d.last = extent{}
	d.forgetUnnamed()
}

func (d *Disk) loseContent(n *node, l Loss) {
	size := int64(len(n.saved))
	if l != DropAll && int64(len(n.data)) < size && d.rand.IntN(2) == 0 {
		size = int64(len(n.data)) // the cut of the file got through
	}
	left := make(map[int64][]byte)
	for p := range n.dirty {
		if b := d.survivor(n, p, l); b != nil {
			left[p] = b
			size = max(size, p*pageSize+int64(len(b)))
			continue
		}
		d.counts.LostPages++
	}
	content := make([]byte, size)
	copy(content, n.saved)
	for p, b := range left {
		if p*pageSize < size {
			copy(content[p*pageSize:], b)
		}
	}
	n.saved, n.data = content, append([]byte(nil), content...)
	n.dirty = make(map[int64]bool)
	n.mapped = make(map[int64]bool)
	for p := range (size + pageSize - 1) / pageSize {
		n.mapped[p] = true
	}
}

// survivor is what is left of a page that was not synced; nil: nothing.
func (d *Disk) survivor(n *node, p int64, l Loss) []byte {
	from := p * pageSize
	if l == DropAll || from >= int64(len(n.data)) {
		return nil
	}
	to := min(from+pageSize, int64(len(n.data)))
	page := n.data[from:to]
	if l == Tear && n.id == d.last.id && d.last.from < to && d.last.to > from {
		cut := d.last.from + d.rand.Int64N(d.last.to-d.last.from)
		switch {
		case cut <= from:
			return nil
		case cut < to:
			torn := make([]byte, len(page))
			if from < int64(len(n.saved)) {
				copy(torn, n.saved[from:])
			}
			copy(torn, page[:cut-from])
			return torn
		}
		return page
	}
	if d.rand.IntN(2) == 0 {
		return nil
	}
	return page
}

// makeDurable carries a change of names out on the durable side.
func (d *Disk) makeDurable(c change) {
	for _, p := range c.parts {
		dir := d.nodes[p.dir]
		if p.id == 0 {
			delete(dir.durable, p.name)
		} else {
			dir.durable[p.name] = p.id
		}
	}
}

// syncNames makes the changes of names durable that have a part like this.
func (d *Disk) syncNames(like func(part) bool) {
	var rest []change
	for _, c := range d.changes {
		if slices.ContainsFunc(c.parts, like) {
			d.makeDurable(c)
		} else {
			rest = append(rest, c)
		}
	}
	d.changes = rest
}

// forgetUnnamed takes the durable names for the current ones and drops nodes that
// have no name.
func (d *Disk) forgetUnnamed() {
	named := make(map[uint64]bool)
	var walk func(id uint64)
	walk = func(id uint64) {
		named[id] = true
		n := d.nodes[id]
		if !n.isDir() {
			return
		}
		n.names = make(map[string]uint64, len(n.durable))
		for name, child := range n.durable {
			n.names[name] = child
			walk(child)
		}
	}
	walk(rootID)
	for id := range d.nodes {
		if !named[id] {
			delete(d.nodes, id)
		}
	}
	d.used = 0
	for _, n := range d.nodes {
		d.used += int64(len(n.mapped))
	}
}

// sync makes the content of a file durable.
func (n *node) sync() {
	if len(n.saved) != len(n.data) {
		n.saved = append(n.saved[:min(len(n.saved), len(n.data))], make([]byte, max(0, len(n.data)-len(n.saved)))...)
	}
	for p := range n.dirty {
		if from := p * pageSize; from < int64(len(n.data)) {
			copy(n.saved[from:], n.data[from:min(from+pageSize, int64(len(n.data)))])
		}
	}
	clear(n.dirty)
}
