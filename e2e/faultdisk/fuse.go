package faultdisk

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The kernel is the only one that changes the disk, so what it knows stays true.
const cached = uint64(3600)

// String names the file system.
func (d *Disk) String() string { return "faultdisk" }

func (d *Disk) attr(n *node, a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink, a.Blksize = n.id, n.mode, 1, pageSize
	a.Size, a.Blocks = uint64(len(n.data)), uint64(len(n.mapped)*pageSize/512)
	a.SetTimes(&n.time, &n.time, &n.time)
}

func (d *Disk) entry(n *node, out *fuse.EntryOut) {
	out.NodeId, out.Generation, out.EntryValid, out.AttrValid = n.id, 1, cached, cached
	d.attr(n, &out.Attr)
}

// refuse tells whether the fault forbids an operation that takes so many new pages.
func (d *Disk) refuse(pages int64) fuse.Status {
	switch {
	case d.fault == Broken:
		d.counts.Refused++
		return fuse.EIO
	case pages > 0 && (d.fault == Full || d.fault == Quota || d.used+pages > d.limit):
		d.counts.Refused++
		return fuse.Status(syscall.ENOSPC)
	}
	return fuse.OK
}

// Lookup finds a name.
func (d *Disk) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.nodes[h.NodeId]
	if dir == nil || !dir.isDir() {
		return fuse.ENOTDIR
	}
	id, ok := dir.names[name]
	if !ok {
		return fuse.ENOENT
	}
	d.entry(d.nodes[id], out)
	return fuse.OK
}

// GetAttr tells size and mode.
func (d *Disk) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[in.NodeId]
	if n == nil {
		return fuse.ENOENT
	}
	out.AttrValid = cached
	d.attr(n, &out.Attr)
	return fuse.OK
}

// SetAttr changes size and mode.
func (d *Disk) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[in.NodeId]
	if n == nil {
		return fuse.ENOENT
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
	}
	if size, ok := in.GetSize(); ok {
		if s := d.refuse(0); s != fuse.OK {
			return s
		}
		before := len(n.mapped)
		n.resize(int64(size))
		d.used -= int64(before - len(n.mapped))
	}
	n.time = time.Now()
	out.AttrValid = cached
	d.attr(n, &out.Attr)
	return fuse.OK
}

// resize changes the size; what is new is a hole.
func (n *node) resize(size int64) {
	old := int64(len(n.data))
	if size <= old {
		clear(n.data[size:])
		for p := size / pageSize; p*pageSize < old; p++ {
			n.dirty[p] = true
			if p*pageSize >= size {
				delete(n.mapped, p)
			}
		}
		n.data = n.data[:size]
		return
	}
	if size > int64(cap(n.data)) {
		grown := make([]byte, old, max(size, 2*old))
		copy(grown, n.data)
		n.data = grown
	}
	n.data = n.data[:size]
	clear(n.data[old:])
}

// Mkdir makes a folder.
func (d *Disk) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, s := d.make(in.NodeId, name, syscall.S_IFDIR|in.Mode&0o777)
	if s == fuse.OK {
		d.entry(n, out)
	}
	return s
}

// Create makes and opens a file.
func (d *Disk) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, s := d.make(in.NodeId, name, syscall.S_IFREG|in.Mode&0o777)
	if s == fuse.OK {
		d.entry(n, &out.EntryOut)
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return s
}

func (d *Disk) make(dir uint64, name string, mode uint32) (*node, fuse.Status) {
	if s := d.refuse(1); s != fuse.OK {
		return nil, s
	}
	if _, ok := d.nodes[dir].names[name]; ok {
		return nil, fuse.Status(syscall.EEXIST)
	}
	n := newNode(d.nextID, mode)
	d.nextID++
	d.nodes[n.id] = n
	d.change(part{dir, name, n.id})
	return n, fuse.OK
}

func (d *Disk) change(parts ...part) {
	for _, p := range parts {
		if names := d.nodes[p.dir].names; p.id == 0 {
			delete(names, p.name)
		} else {
			names[p.name] = p.id
		}
	}
	d.changes = append(d.changes, change{parts})
}

// Unlink removes a file's name. The file itself stays until the next power cut.
func (d *Disk) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.refuse(0); s != fuse.OK {
		return s
	}
	id, ok := d.nodes[h.NodeId].names[name]
	if !ok {
		return fuse.ENOENT
	}
	d.change(part{h.NodeId, name, 0})
	d.free(id)
	return fuse.OK
}

// free gives back the space of a file that has lost its name. Its content stays
// until the next power cut, which may bring the name back.
func (d *Disk) free(id uint64) {
	if n := d.nodes[id]; n != nil {
		d.used -= int64(len(n.mapped))
		clear(n.mapped)
	}
}

// Rmdir removes an empty folder.
func (d *Disk) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	d.mu.Lock()
	id, ok := d.nodes[h.NodeId].names[name]
	full := ok && len(d.nodes[id].names) > 0
	d.mu.Unlock()
	if full {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	return d.Unlink(cancel, h, name)
}

// Rename moves a name, over another if there is one, in one step.
func (d *Disk) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.refuse(0); s != fuse.OK {
		return s
	}
	id, ok := d.nodes[in.NodeId].names[from]
	switch {
	case !ok:
		return fuse.ENOENT
	case in.Flags != 0:
		return fuse.EINVAL
	}
	replaced, over := d.nodes[in.Newdir].names[to]
	d.change(part{in.NodeId, from, 0}, part{in.Newdir, to, id})
	if over && replaced != id {
		d.free(replaced)
	}
	return fuse.OK
}

// Open opens a file; the kernel's pages of it stay good.
func (d *Disk) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// OpenDir opens a folder.
func (d *Disk) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReadDir lists a folder.
func (d *Disk) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range d.list(in.NodeId) {
		if uint64(i) >= in.Offset && !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

// list returns the entries in order of their ids, so that one that goes away
// meanwhile moves the others as little as possible.
func (d *Disk) list(dir uint64) []fuse.DirEntry {
	var list []fuse.DirEntry
	for id := uint64(rootID); id < d.nextID; id++ {
		n := d.nodes[id]
		if n == nil {
			continue
		}
		for name, child := range d.nodes[dir].names {
			if child == id {
				list = append(list, fuse.DirEntry{Name: name, Ino: id, Mode: n.mode, Off: uint64(len(list) + 1)})
			}
		}
	}
	return list
}

// ReadDirPlus is not offered.
func (d *Disk) ReadDirPlus(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.ENOSYS
}

// Read reads.
func (d *Disk) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[in.NodeId]
	if n == nil || in.Offset >= uint64(len(n.data)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, n.data[in.Offset:])]), fuse.OK
}

// Write writes what is not durable before a sync.
func (d *Disk) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[in.NodeId]
	if n == nil {
		return 0, fuse.ENOENT
	}
	from, to := int64(in.Offset), int64(in.Offset)+int64(len(data))
	first, last := from/pageSize, (to-1)/pageSize
	grows := n.unmapped(first, last)
	if s := d.refuse(grows); s != fuse.OK {
		return 0, s
	}
	if to > int64(len(n.data)) {
		n.resize(to)
	}
	copy(n.data[from:], data)
	d.take(n, first, last)
	for p := first; p <= last; p++ {
		n.dirty[p] = true
	}
	n.time = time.Now()
	d.last = extent{n.id, from, to}
	d.counts.Writes++
	return uint32(len(data)), fuse.OK
}

// Flush is called at every close, and is no sync.
func (d *Disk) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync makes a file durable.
func (d *Disk) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.refuse(0); s != fuse.OK {
		return s
	}
	d.counts.Syncs++
	if n := d.nodes[in.NodeId]; n != nil {
		n.sync()
	}
	switch d.metadata {
	case Ordered:
		d.syncNames(func(part) bool { return true })
	case Own:
		d.syncNames(func(p part) bool { return p.id == in.NodeId })
	case Strict:
	}
	return fuse.OK
}

// FsyncDir makes the names in a folder durable.
func (d *Disk) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.refuse(0); s != fuse.OK {
		return s
	}
	d.counts.Syncs++
	d.syncNames(func(p part) bool { return p.dir == in.NodeId || d.metadata == Ordered })
	return fuse.OK
}

// Fallocate takes space for a range.
func (d *Disk) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[in.NodeId]
	switch {
	case n == nil:
		return fuse.ENOENT
	case in.Mode != 0:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	from, to := int64(in.Offset), int64(in.Offset+in.Length)
	first, last := from/pageSize, (to-1)/pageSize
	grows := n.unmapped(first, last)
	if s := d.refuse(grows); s != fuse.OK {
		return s
	}
	if to > int64(len(n.data)) {
		n.resize(to)
	}
	d.take(n, first, last)
	return fuse.OK
}

// unmapped is how many pages of a range have no space of their own.
func (n *node) unmapped(first, last int64) int64 {
	var count int64
	for p := first; p <= last; p++ {
		if !n.mapped[p] {
			count++
		}
	}
	return count
}

// take gives the pages of a range space of their own.
func (d *Disk) take(n *node, first, last int64) {
	d.used += n.unmapped(first, last)
	for p := first; p <= last; p++ {
		n.mapped[p] = true
	}
}

// StatFs tells how much space is left.
func (d *Disk) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks = capacity
	out.Bfree = uint64(max(0, d.limit-d.used))
	if d.fault == Full {
		out.Bfree = 0
	}
	out.Bavail = out.Bfree
	out.Files, out.Ffree = 1<<20, 1<<20
	return fuse.OK
}
