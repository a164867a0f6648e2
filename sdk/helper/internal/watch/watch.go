package watch

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/prune"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

const (
	quiet     = 5 * time.Millisecond  // an event is sent after so much silence,
	patience  = 50 * time.Millisecond // or after so long without it
	scanEvery = 2 * time.Second
)

// watch is one inotify instance and one request.
type watch struct {
	hub  *Hub
	r    *session.Request
	fd   int
	file *os.File // the same descriptor, for reads with a deadline
	walk bool
	// leave: directories that are not looked into, and names of which nobody wants to know more than that they are there
	leave *prune.Set

	mu       sync.Mutex // after hub.track where both are held
	top      *node
	byWD     map[int32]*node
	kids     map[entry]*node
	pending  map[entry]*change
	order    []*change
	dirs     map[*node]int // those that could not be looked at, and how often
	overflow map[*node]bool
	moves    map[uint32]moved
	over     map[entry]bool // names that a directory took from another one
	doubtful bool           // events were lost: see relearn
	lost     bool
	scanned  []*node
	scanning bool
	stop     chan struct{}
	closed   bool
	wake     atomic.Bool // a look at what is pending is due; see poke

	drains []chan struct{} // who waits for all that is queued; see Drain

	// under hub.track
	last   uint64 // number of its last event
	own    map[string]ownState
	ownSeq uint64

	sending chan struct{} // holds a token while a frame is on its way
}

// ownState is what a change of ours left under a path.
type ownState struct {
	attr *root.Attr
	seq  uint64
}

func newWatch(h *Hub, r *session.Request, path string, walk bool, leave *prune.Set) (*watch, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &watch{
		hub: h, r: r, fd: fd, file: os.NewFile(uintptr(fd), "inotify"), walk: walk, leave: leave, top: &node{name: path, wd: -1},
		byWD: map[int32]*node{}, kids: map[entry]*node{}, pending: map[entry]*change{}, dirs: map[*node]int{},
		overflow: map[*node]bool{}, moves: map[uint32]moved{}, over: map[entry]bool{}, own: map[string]ownState{},
		stop: make(chan struct{}), sending: make(chan struct{}, 1),
	}, nil
}

func (w *watch) start() error {
	fd, err := w.hub.space.Open(w.top.name, syscall.O_RDONLY|syscall.O_DIRECTORY, false)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.attach(w.top, fd)
	syscall.Close(fd)
	if w.walk {
		w.addTree(w.top, nothing)
	}
	w.mu.Unlock()
	return nil
}

func (w *watch) close() {
	close(w.stop)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.file.Close()
}

// poke ends the read that serve waits in. The flag comes first: serve looks at it after it has set its own deadline.
func (w *watch) poke() {
	w.wake.Store(true)
	w.file.SetReadDeadline(time.Unix(1, 0))
}

// ownBatch: so many changes of ours are noted before a look whether their events are all in.
const ownBatch = 1024

// left is called under hub.track. The attr is not changed by anyone afterwards.
func (w *watch) left(path string, attr *root.Attr) {
	w.ownSeq++
	var kept *root.Attr
	if attr != nil {
		short := *attr
		short.Sum, short.Target = nil, ""
		kept = &short
	}
	w.own[path] = ownState{kept, w.ownSeq}
	if w.ownSeq%ownBatch == 0 { // nothing may come of them: in a directory that is not watched
		w.poke()
	}
}

// ours tells whether what is there now is what we left.
func (s ownState) ours(now *root.Attr) bool {
	if s.attr == nil || now == nil {
		return s.attr == nil && now == nil
	}
	if now.IsDir() { // its times and size change with its entries
		return now.Ino == s.attr.Ino && now.Mode == s.attr.Mode && now.UID == s.attr.UID && now.GID == s.attr.GID
	}
	return now.Ino == s.attr.Ino && now.Ctime == s.attr.Ctime && now.Mtime == s.attr.Mtime && now.Size == s.attr.Size
}

// serve sends events until the request is cancelled.
func (w *watch) serve() error {
	if !w.r.Events(msgpack.AppendArray(nil, 0)) {
		return nil
	}
	go func() {
		<-w.r.Done()
		w.poke()
	}()
	go w.lookAfterRoot()
	buf := make([]byte, 65536)
	var first, last time.Time
	blocked := false
	for !w.r.Cancelled() {
		w.file.SetReadDeadline(w.deadline(first, last, blocked))
		n, woken := 0, w.wake.Swap(false)
		if !woken {
			var err error
			if n, err = w.file.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
		now := time.Now()
		w.mu.Lock()
		if n > 0 {
			w.parse(buf[:n])
			last = now
		}
		asked := w.drains
		waiting := len(w.order) > 0 || len(w.dirs) > 0 || len(w.overflow) > 0 || w.lost
		w.mu.Unlock()
		if len(asked) > 0 && w.queued() {
			continue
		}
		if !waiting {
			w.drained(asked)
			if woken {
				w.settle()
			}
			continue
		}
		if first.IsZero() {
			first, last = now, now
		}
		if now.Sub(last) < quiet && now.Sub(first) < patience && len(asked) == 0 {
			continue
		}
		if blocked = !w.flush(); !blocked {
			first = time.Time{}
			w.mu.Lock()
			putOff := len(w.order) > 0 || len(w.dirs) > 0
			w.mu.Unlock()
			if putOff {
				first, last = now, now
			} else {
				w.drained(asked)
			}
		}
	}
	return nil
}

// settle forgets our own changes when all their events are in.
func (w *watch) settle() {
	w.hub.track.Lock()
	seen := w.ownSeq
	w.hub.track.Unlock()
	if !w.queued() {
		w.forgetOwn(seen)
	}
}

// lookAfterRoot notices that the watched directory was removed. inotify says so only when its inode goes, and we hold that.
func (w *watch) lookAfterRoot() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-ticker.C:
		}
		var st syscall.Stat_t
		if sys.Fstat(w.hub.space.FD, &st) == nil && st.Nlink == 0 {
			w.mu.Lock()
			w.lost = true
			w.mu.Unlock()
			w.poke()
			return
		}
	}
}

// deadline is when reading stops for a look at what is pending. While a frame is on its way, everything waits for it.
func (w *watch) deadline(first, last time.Time, blocked bool) time.Time {
	if first.IsZero() {
		return time.Time{}
	}
	if blocked {
		return time.Now().Add(patience)
	}
	due := last.Add(quiet)
	if limit := first.Add(patience); limit.Before(due) {
		due = limit
	}
	if soon := time.Now().Add(time.Millisecond); due.Before(soon) {
		due = soon
	}
	return due
}

// queued tells whether inotify has more to read.
func (w *watch) queued() bool {
	var n int32
	syscall.Syscall(syscall.SYS_IOCTL, uintptr(w.fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return n > 0
}

// frameTarget: events are sent in frames of about this size.
const frameTarget = 64 << 10

// flush decides what is pending and sends it. False: a frame is still on its way, so things go on being coalesced.
func (w *watch) flush() bool {
	select {
	case w.sending <- struct{}{}:
	default:
		return false
	}
	w.hub.track.Lock()
	seen := w.ownSeq
	w.hub.track.Unlock()
	// Every change of ours has its events queued before it is noted: once the queue is empty, those up to seen are pending.
	drained := !w.queued()
	w.mu.Lock()
	if drained {
		w.movedAway()
	}
	if w.doubtful {
		w.doubtful = false
		w.relearn()
		if w.walk {
			w.addTree(w.top, nothing)
		}
	}
	pending, order, dirs, overflow, lost := w.pending, w.order, w.dirs, w.overflow, w.lost
	w.pending, w.order, w.dirs, w.overflow, w.lost = map[entry]*change{}, nil, map[*node]int{}, map[*node]bool{}, false
	w.mu.Unlock()
	f := &frames{
		w: w, drained: drained, dirs: dirs, pending: pending, by: map[*change]*change{}, late: map[entry]bool{},
	}
	for n := range overflow {
		f.overflow(n, syscall.IN_Q_OVERFLOW)
	}
	f.decideAll(order)
	f.directories()
	if lost {
		f.overflow(&node{}, syscall.IN_UNMOUNT)
	}
	f.end()
	if f.drained {
		w.forgetOwn(seen)
	}
	go func() {
		for _, b := range f.done {
			if !w.r.Events(b) {
				break
			}
		}
		<-w.sending
		w.poke()
	}()
	return true
}

func (w *watch) forgetOwn(seen uint64) {
	w.hub.track.Lock()
	defer w.hub.track.Unlock()
	for path, s := range w.own {
		if s.seq <= seen {
			delete(w.own, path)
		}
	}
}
