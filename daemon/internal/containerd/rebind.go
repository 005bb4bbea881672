package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Rebind implements runtime.Modules.
func (r *Runtime) Rebind(ctx context.Context, name string, paths ...string) error {
	ctx = r.ctx(ctx)
	unlock, err := r.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	c, _, err := r.load(ctx, name)
	if err != nil {
		return err
	}
	run := r.find(name)
	if run == nil {
		return nil
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return fmt.Errorf("bind anew in module %s: %w", name, translate(err))
	}
	var binds []bind
	for _, m := range spec.Mounts {
		if m.Type == "bind" && slices.Contains(paths, m.Source) {
			binds = append(binds, bind{from: m.Source, to: m.Destination})
		}
	}
	if len(binds) == 0 {
		return nil
	}
	if err := r.rebind(ctx, name, int(run.task.Pid()), binds); err != nil {
		return fmt.Errorf("bind anew in module %s: %w", name, err)
	}
	return nil
}

// bind is a path of the host and where a module sees it.
type bind struct{ from, to string }

// rebind makes binds in the mount namespace of a module's first process.
func (r *Runtime) rebind(ctx context.Context, name string, pid int, binds []bind) (err error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	// The process of that number is the module's now, so it was when ns was opened.
	if p, err := r.ModuleOfPid(ctx, pid); err != nil || p.Module != name {
		return errors.Join(fmt.Errorf("process %d is not the module's any more", pid), err)
	}
	trees := make([]int, len(binds))
	for i, b := range binds {
		tree, err := unix.OpenTree(unix.AT_FDCWD, b.from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("clone mount of %s: %w", b.from, err)
		}
		defer func() { err = errors.Join(err, unix.Close(tree)) }()
		trees[i] = tree
	}
	descriptors, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("own descriptors: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(descriptors)) }()
	return within(ns, func() error {
		for i, b := range binds {
			if err := unmountSocket(descriptors, b.to); err != nil {
				return fmt.Errorf("unmount %s: %w", b.to, err)
			}
			if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, b.to, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
				return fmt.Errorf("mount %s: %w", b.to, err)
			}
			if err := unix.Mount("", b.to, "", unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mount %s private: %w", b.to, err)
			}
		}
		return nil
	})
}

// unmountSocket takes away a socket that is mounted at path. The module may lead the path
// wherever it likes, even while it is being used: what is unmounted is what was looked
// at, and is never one of the mounts that hide something from the module, for those are
// no sockets. descriptors is /proc/self/fd of the host.
func unmountSocket(descriptors int, path string) (err error) {
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(at)) }()
	var stat unix.Stat_t
	if err := unix.Fstat(at, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil
	}
	if err := unix.Fchdir(descriptors); err != nil {
		return err
	}
	// Nothing is mounted if an earlier attempt was broken off here.
	if err := unix.Unmount(strconv.Itoa(at), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// within runs f in a mount namespace, on a thread that ends with it.
func within(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread is what others see of the process, and has to stay. While
			// it is held here, the next attempt gets another one.
			done <- within(ns, f)
			goruntime.UnlockOSThread()
			return
		}
		done <- enter(ns, f)
		// Still locked, so the thread ends.
	}()
	return <-done
}

func enter(ns *os.File, f func() error) error {
	// A thread that shares its root folder with others cannot change it.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("thread with a root of its own: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return f()
}
