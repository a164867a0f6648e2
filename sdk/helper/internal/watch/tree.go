package watch

import (
	"encoding/binary"
	"hash/fnv"
	"strings"
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// node is a directory. Its path is that of its parents, so that a rename changes one node.
type node struct {
	parent  *node // nil: the watch's top, whose name is its path
	name    string
	wd      int32 // -1: not watched by inotify
	scanned bool
	gone    bool
	stamp   uint64 // of a scanned one: digest of its attributes and its entries'
}

type entry struct {
	dir  *node
	name string
}

func (n *node) path() string {
	if n.parent == nil {
		return n.name
	}
	return root.Join(n.parent.path(), n.name)
}

func (e entry) path() string {
	if e.name == "" {
		return e.dir.path()
	}
	return root.Join(e.dir.path(), e.name)
}

const watchMask = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MODIFY | syscall.IN_ATTRIB | syscall.IN_CLOSE_WRITE |
	syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO | syscall.IN_DELETE_SELF | syscall.IN_ONLYDIR | syscall.IN_EXCL_UNLINK

// attach watches a directory that is open. The kernel is asked even if the node has a watch: that may be the one of
// another directory, which had this path before. The caller holds mu.
func (w *watch) attach(n *node, fd int) {
	if n.scanned || w.closed {
		return
	}
	if n.wd >= 0 || len(w.byWD) < w.hub.limit {
		wd, err := syscall.InotifyAddWatch(w.fd, sys.ProcFD(fd), watchMask)
		if err == nil {
			w.known(n, int32(wd))
			return
		}
	}
	w.unwatch(n)
	n.scanned = true
	n.stamp = w.stampOf(n.path(), fd)
	w.scanned = append(w.scanned, n)
	w.startScanning()
}

// known files a node under its watch descriptor. The kernel gives the same descriptor for the same directory: what was
// filed under it has been moved here, and the news of that waits in the queue.
func (w *watch) known(n *node, wd int32) {
	if n.wd != wd {
		w.unwatch(n)
	}
	if old := w.byWD[wd]; old != nil && old != n {
		old.wd = -1
		if !old.isAbove(n) { // else another one has its place, with the moved one in it
			w.detach(old)
		}
	}
	n.wd = wd
	w.byWD[wd] = n
}

func (n *node) isAbove(other *node) bool {
	for other != nil && other != n {
		other = other.parent
	}
	return other != nil
}

// isOther tells whether another directory than the node's is at a path. Nothing there: no. The caller holds mu.
func (w *watch) isOther(n *node, path string) bool {
	if n.scanned {
		return false
	}
	fd, err := w.hub.space.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, false)
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	wd, err := syscall.InotifyAddWatch(w.fd, sys.ProcFD(fd), watchMask)
	if err != nil || int32(wd) == n.wd {
		return false
	}
	if w.byWD[int32(wd)] == nil {
		syscall.InotifyRmWatch(w.fd, uint32(wd))
	}
	return true
}

// stampOf digests what is in a directory: names, and what changes with every change of their objects.
func (w *watch) stampOf(path string, fd int) uint64 {
	var st syscall.Stat_t
	digest := fnv.New64a()
	add := func() {
		var b [32]byte
		binary.NativeEndian.PutUint64(b[:], st.Ino)
		binary.NativeEndian.PutUint64(b[8:], uint64(st.Ctim.Nano()))
		binary.NativeEndian.PutUint64(b[16:], uint64(st.Mtim.Nano()))
		binary.NativeEndian.PutUint64(b[24:], uint64(st.Size))
		digest.Write(b[:])
	}
	if sys.Fstat(fd, &st) != nil {
		return 0
	}
	add()
	syscall.Seek(fd, 0, 0)
	sys.Dirents(fd, make([]byte, 8192), func(name []byte, _ byte) error {
		if !w.hub.space.HiddenName(path, name) && sys.Fstatat(fd, string(name), &st, sys.AtSymlinkNofollow) == nil {
			digest.Write(name)
			if w.leave.Names(path, string(name)) {
				st = syscall.Stat_t{Ino: st.Ino}
			}
			add()
		}
		return nil
	})
	syscall.Seek(fd, 0, 0) // it is about to be read by others
	return digest.Sum64()
}

// child returns the node of a subdirectory, made if need be. The caller holds mu.
func (w *watch) child(parent *node, name string) *node {
	key := entry{parent, name}
	n := w.kids[key]
	if n == nil {
		n = &node{parent: parent, name: name, wd: -1}
		w.kids[key] = n
	}
	return n
}

// watchDir adds a directory that is about to be read, and those above it.
func (w *watch) watchDir(path string, fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.top
	for rest, above := path, ""; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if w.leave.Prunes(above, name) {
			return
		}
		above = root.Join(above, name)
		n = w.child(n, name)
		if rest != "" && n.wd < 0 && !n.scanned {
			if above, err := w.hub.space.Open(n.path(), syscall.O_RDONLY|syscall.O_DIRECTORY, false); err == nil {
				w.attach(n, above)
				syscall.Close(above)
			}
		}
	}
	w.attach(n, fd)
}

// report says what addTree makes pending, as if it had been created now.
type report uint8

const (
	nothing report = iota
	newOnes        // what is in directories that were not watched before
	everything
)

// addTree watches a directory and what is below it. The caller holds mu.
func (w *watch) addTree(n *node, tell report) {
	path := n.path()
	fd, err := w.hub.space.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, false)
	if err != nil {
		return
	}
	tellThese := tell == everything || tell == newOnes && n.wd < 0 && !n.scanned
	w.attach(n, fd)
	var below []string
	sys.Dirents(fd, make([]byte, 8192), func(name []byte, kind byte) error {
		if w.hub.space.HiddenName(path, name) {
			return nil
		}
		if tellThese {
			w.pend(entry{n, string(name)}, syscall.IN_CREATE).there = true
		}
		if (kind == sys.DTDir || kind == sys.DTUnknown) && !w.leave.Prunes(path, string(name)) {
			below = append(below, string(name))
		}
		return nil
	})
	syscall.Close(fd)
	for _, name := range below {
		sub := w.child(n, name)
		before := sub.wd >= 0 || sub.scanned
		w.addTree(sub, tell)
		if !before && sub.wd < 0 && !sub.scanned {
			delete(w.kids, entry{n, name}) // no directory, or gone
		}
	}
}

// detach forgets a directory and all below it. The caller holds mu.
func (w *watch) detach(n *node) {
	if w.kids[entry{n.parent, n.name}] == n {
		delete(w.kids, entry{n.parent, n.name})
	}
	w.detachBelow(map[*node]bool{n: true})
}

// placed: a directory that was watched has another path now. What of it is left out there is forgotten, what no longer
// is has appeared. The caller holds mu.
func (w *watch) placed(n *node) {
	if !w.leave.Anchored() {
		return
	}
	dead := map[*node]bool{}
	for key, one := range w.kids {
		above := one.parent
		for above != nil && above != n {
			above = above.parent
		}
		if above == n && w.leave.Prunes(key.dir.path(), key.name) {
			dead[one] = true
			delete(w.kids, key)
		}
	}
	if len(dead) > 0 {
		w.detachBelow(dead)
	}
	w.addTree(n, newOnes)
}

// detachBelow goes over all nodes once: directories do not know their children, which saves memory in every one of
// them, and a directory disappears far less often than it exists.
func (w *watch) detachBelow(dead map[*node]bool) {
	isDead := func(n *node) bool {
		for m := n; m != nil; m = m.parent {
			if dead[m] {
				return true
			}
		}
		return false
	}
	for n := range dead {
		w.drop(n)
	}
	for key, n := range w.kids {
		if isDead(n) {
			delete(w.kids, key)
			w.drop(n)
		}
	}
}

func (w *watch) drop(n *node) {
	n.gone = true
	w.unwatch(n)
}

func (w *watch) unwatch(n *node) {
	if n.wd >= 0 && w.byWD[n.wd] == n {
		syscall.InotifyRmWatch(w.fd, uint32(n.wd))
		delete(w.byWD, n.wd)
	}
	n.wd = -1
}

// relearn asks the kernel which directory has each known path now, those above first: events were lost, so any of them
// may have been removed or renamed, and others may have their names. One pass, however many were. The caller holds mu.
func (w *watch) relearn() {
	kids, before := w.kids, w.byWD
	w.kids, w.byWD = make(map[entry]*node, len(kids)), make(map[int32]*node, len(before))
	clear(w.moves)
	clear(w.over)
	below := map[*node][]*node{}
	for _, n := range kids {
		below[n.parent] = append(below[n.parent], n)
	}
	for _, n := range before {
		n.gone, n.wd = true, -1
	}
	for _, n := range kids {
		n.gone = true
	}
	w.top.gone = false
	for waiting := []*node{w.top}; len(waiting) > 0; {
		n := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		fd, err := w.hub.space.Open(n.path(), syscall.O_RDONLY|syscall.O_DIRECTORY, false)
		if err != nil {
			w.lost = w.lost || n == w.top && (err == syscall.ENOENT || err == syscall.ENOTDIR)
			continue
		}
		if n.gone = false; n.parent != nil {
			w.kids[entry{n.parent, n.name}] = n
		}
		w.attach(n, fd)
		syscall.Close(fd)
		waiting = append(waiting, below[n]...)
	}
	for wd := range before {
		if w.byWD[wd] == nil {
			syscall.InotifyRmWatch(w.fd, uint32(wd))
		}
	}
}
