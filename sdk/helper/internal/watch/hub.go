// Package watch tells the client what changes in the workspace (sdk/PROTOCOL.md section 7).
//
// Directories are watched, files are not: a node is kept for each directory, and an event names an entry of one. Events
// carry the state at the time they are sent, so it does not matter how many of them were coalesced.
package watch

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"sealos.io/devbox-helper/internal/files"
	"sealos.io/devbox-helper/internal/prune"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
)

// Hub is the watches of a connection. Its lock is the one under which changes are made and events are decided.
type Hub struct {
	space *root.Root
	limit int // directories watched by inotify; the others are scanned

	track  sync.Mutex
	number atomic.Uint64
	all    []*watch // copied on change, under track

	lazyMu sync.Mutex
	lazy   *watch // the one without walk, which list and snapshot feed
}

// NewHub returns a Hub without watches.
func NewHub(space *root.Root) *Hub { return &Hub{space: space, limit: inotifyLimit()} }

// inotifyLimit is half of what the user may watch: other boxes share it. DEVBOX_HELPER_WATCH_LIMIT is for tests.
func inotifyLimit() int {
	if n, err := strconv.Atoi(os.Getenv("DEVBOX_HELPER_WATCH_LIMIT")); err == nil {
		return n
	}
	content, _ := os.ReadFile("/proc/sys/fs/inotify/max_user_watches")
	n, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		n = 8192
	}
	return n / 2
}

// Event is the number of the last event that was decided; 0 without a watch.
func (h *Hub) Event() uint64 { return h.number.Load() }

// Lock excludes decisions about events.
func (h *Hub) Lock() { h.track.Lock() }

// Unlock allows them again.
func (h *Hub) Unlock() { h.track.Unlock() }

// Left notes what a change of ours has left under a path. The caller holds the lock.
func (h *Hub) Left(path string, attr *root.Attr) {
	for _, w := range h.all {
		w.left(path, attr)
	}
}

// WatchDir adds a directory, before it is read, to the watch without walk.
func (h *Hub) WatchDir(path string, fd int) {
	h.lazyMu.Lock()
	w := h.lazy
	h.lazyMu.Unlock()
	if w != nil {
		w.watchDir(path, fd)
	}
}

// Handler is `watch`.
func (h *Hub) Handler(r *session.Request) ([]byte, error) {
	a := files.Take(r)
	path, walk, leave := a.Path(), a.Bool(), a.Prune()
	if a.Err != nil {
		return nil, a.Err
	}
	r.Event = h.Event()
	w, err := h.begin(r, path, walk, leave)
	if err != nil {
		return nil, err
	}
	defer h.end(w)
	return nil, w.serve()
}

func (h *Hub) begin(r *session.Request, path string, walk bool, leave *prune.Set) (*watch, error) {
	if !walk {
		path = "" // the root is watched, and what is listed
	}
	h.lazyMu.Lock()
	defer h.lazyMu.Unlock()
	if !walk && h.lazy != nil {
		return nil, session.Fail(syscall.EBUSY, "there is a watch without walk already")
	}
	w, err := newWatch(h, r, path, walk, leave)
	if err != nil {
		return nil, err
	}
	h.track.Lock()
	h.all = append(h.all[:len(h.all):len(h.all)], w)
	h.track.Unlock()
	if err := w.start(); err != nil {
		h.remove(w)
		w.close()
		return nil, err
	}
	if !walk {
		h.lazy = w
	}
	return w, nil
}

func (h *Hub) remove(w *watch) {
	h.track.Lock()
	defer h.track.Unlock()
	var rest []*watch
	for _, other := range h.all {
		if other != w {
			rest = append(rest, other)
		}
	}
	h.all = rest
}

func (h *Hub) end(w *watch) {
	h.lazyMu.Lock()
	if h.lazy == w {
		h.lazy = nil
	}
	h.lazyMu.Unlock()
	h.remove(w)
	w.close()
}
