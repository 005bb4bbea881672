// Package faultdisk is a file system (FUSE) on a disk that fails on demand. It
// keeps what was synced apart from what was only written, and can lose the latter
// as a power cut does; it can be full; it can answer writes and syncs with errors.
//
// What is durable, and when:
//
//   - bytes and size of a file: after fsync or fdatasync of it. Writes through a
//     memory map count as written when the kernel hands them over, at the latest
//     when the file is synced or the disk is unmounted.
//   - names (create, rename, unlink): after fsync of their folder; and, by Metadata,
//     with fsync of the file itself (Own, as on btrfs), with fsync of anything
//     (Ordered, the journal of ext4 with data=ordered, and of XFS), or not at all before (Strict: no more
//     than POSIX promises).
//
// Everything lives in memory. Mounting needs root and /dev/fuse.
package faultdisk

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Metadata says what a sync does to names.
type Metadata int

// See the package comment.
const (
	Ordered Metadata = iota
	Own
	Strict
)

func (m Metadata) String() string { return [...]string{"ordered", "own", "strict"}[m] }

// Loss says what a power cut leaves of what was not synced.
type Loss int

// Ways to lose.
const (
	// DropAll leaves nothing.
	DropAll Loss = iota
	// Subset leaves each page or not by chance, and a first part of the changes of
	// names: what a disk with a cache of its own may do.
	Subset
	// Tear is Subset, and cuts the last write at a random byte.
	Tear
)

func (l Loss) String() string {
	return [...]string{"all is lost", "some pages are left", "the last write is torn"}[l]
}

// Fault is how the disk misbehaves.
type Fault int

// Faults.
const (
	None Fault = iota
	// Low leaves LowSpace of free space, of which statfs tells.
	Low
	// Full refuses with ENOSPC whatever needs new space, and says so in statfs.
	Full
	// Quota refuses as Full does, but statfs tells of plenty.
	Quota
	// Broken answers writes and syncs with EIO.
	Broken
)

func (f Fault) String() string {
	return [...]string{"none", "low on space", "full", "over quota", "I/O errors"}[f]
}

const (
	pageSize = 4096
	capacity = 8 << 30 / pageSize // pages
	rootID   = fuse.FUSE_ROOT_ID
)

// LowSpace is what a disk that is Low has left, in bytes.
const LowSpace = 40 << 20

// Disk is the disk with its content. Its methods may be called concurrently with
// the use of the file system.
type Disk struct {
	fuse.RawFileSystem
	metadata Metadata

	mu      sync.Mutex
	rand    *rand.Rand
	fault   Fault
	used    int64 // pages with space of their own
	limit   int64 // of used
	nodes   map[uint64]*node
	nextID  uint64
	changes []change // of names, not durable, in order
	last    extent   // the last write
	counts  Counts

	mountpoint string
	server     *fuse.Server
}

// Counts is what the disk was asked to do.
type Counts struct {
	Writes, Syncs, Refused int
	LostPages              int // by power cuts
}

// node is a file or folder.
type node struct {
	id      uint64
	mode    uint32
	data    []byte
	mapped  map[int64]bool // pages that have space on the disk
	dirty   map[int64]bool // pages that differ from saved
	saved   []byte         // durable
	names   map[string]uint64
	durable map[string]uint64 // names
	time    time.Time
}

// change is one change of names: dir[name] becomes id, 0 for none; a rename has two
// parts.
type change struct{ parts []part }

type part struct {
	dir  uint64
	name string
	id   uint64
}

type extent struct {
	id       uint64
	from, to int64
}

// New returns an empty disk.
func New(m Metadata, seed uint64) *Disk {
	d := &Disk{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), metadata: m,
		rand: rand.New(rand.NewPCG(seed, 1)), limit: capacity, nodes: make(map[uint64]*node), nextID: rootID + 1,
	}
	d.nodes[rootID] = newNode(rootID, syscall.S_IFDIR|0o700)
	return d
}

func newNode(id uint64, mode uint32) *node {
	n := &node{id: id, mode: mode, mapped: make(map[int64]bool), dirty: make(map[int64]bool), time: time.Now()}
	if n.isDir() {
		n.names, n.durable = make(map[string]uint64), make(map[string]uint64)
	}
	return n
}

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// Mount makes the disk available in a folder.
func (d *Disk) Mount(mountpoint string) error {
	s, err := fuse.NewServer(d, mountpoint, &fuse.MountOptions{
		DirectMount: true, FsName: "faultdisk", Name: "faultdisk", DisableXAttrs: true, DisableReadDirPlus: true, MaxWrite: 1 << 20,
	})
	if err != nil {
		return fmt.Errorf("mount fault disk: %w", err)
	}
	go s.Serve() // ends with Unmount, which waits for it
	if err := s.WaitMount(); err != nil {
		return fmt.Errorf("mount fault disk: %w", err)
	}
	d.mountpoint, d.server = mountpoint, s
	return nil
}

// Unmount takes it away; nobody may have a file open. What the kernel still had to
// write is written, not synced.
func (d *Disk) Unmount() error {
	if d.server == nil {
		return nil
	}
	var err error
	for range 50 {
		if err = d.unmount(); err == nil {
			d.server = nil
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("unmount fault disk: %w", err)
}

// PowerCut loses what is not durable, and ends any fault. Whoever used the disk
// must have been killed before.
func (d *Disk) PowerCut(l Loss) error {
	if err := d.Unmount(); err != nil {
		return err
	}
	d.mu.Lock()
	d.lose(l)
	d.setFault(None)
	d.mu.Unlock()
	return d.Mount(d.mountpoint)
}

// SetFault changes how the disk misbehaves from now on.
func (d *Disk) SetFault(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setFault(f)
}

func (d *Disk) setFault(f Fault) {
	d.fault, d.limit = f, capacity
	if f == Low {
		d.limit = d.used + LowSpace/pageSize
	}
}

// Counts returns what was counted.
func (d *Disk) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}
