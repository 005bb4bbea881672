package seglog_test

import (
	"strings"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/internal/seglog"
)

// watched is a folder that counts what is done to it.
type watched struct {
	seglog.Folder
	mu         sync.Mutex
	open, most int   // files
	read       int64 // bytes
	rewritten  int   // segments that were begun to be written anew
}

func (w *watched) opened(f seglog.File, err error) (seglog.File, error) {
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	w.most = max(w.most, w.open)
	return &watchedFile{f, w}, nil
}

func (w *watched) Open(name string) (seglog.File, error) { return w.opened(w.Folder.Open(name)) }

func (w *watched) Create(name string, size int64) (seglog.File, error) {
	if strings.HasPrefix(name, "compact") {
		w.mu.Lock()
		w.rewritten++
		w.mu.Unlock()
	}
	return w.opened(w.Folder.Create(name, size))
}

// counts returns the most files that were open since the last call, the bytes read,
// and the segments written anew.
func (w *watched) counts() (most int, read int64, rewritten int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	most, read, rewritten = w.most, w.read, w.rewritten
	w.most, w.read, w.rewritten = w.open, 0, 0
	return most, read, rewritten
}

type watchedFile struct {
	seglog.File
	w *watched
}

func (f *watchedFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.read += int64(n)
	return n, err
}

func (f *watchedFile) Close() error {
	f.w.mu.Lock()
	f.w.open--
	f.w.mu.Unlock()
	return f.File.Close()
}
