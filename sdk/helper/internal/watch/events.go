package watch

import (
	"encoding/binary"
	"syscall"
)

// change is what is pending for an entry.
type change struct {
	entry
	mask    uint32
	from    *entry
	old     *change   // what is pending for from: decided together with this one
	via     []*change // what is pending for the names between from and this one, the last one last
	done    bool
	there   bool // the last thing heard of it was not that it went
	retries int
}

// moved is the first half of a rename. Its second half follows in the queue if it is within the tree.
type moved struct {
	entry
	dir     *node
	swapped bool // it may be what was there before dir came: see exchanged
}

// maxPending: beyond it the client had better list the tree again.
const maxPending = 65536

// pend notes a change. The caller holds mu.
func (w *watch) pend(e entry, mask uint32) *change {
	c := w.pending[e]
	if c == nil {
		if len(w.order) >= maxPending {
			w.overflowed()
			return &change{}
		}
		c = &change{entry: e}
		w.pending[e] = c
		w.order = append(w.order, c)
	}
	c.mask |= mask & syscall.IN_ALL_EVENTS
	return c
}

// overflowed: events were lost. The client lists the tree again, and by that also adds what is not watched yet; it is
// told once that what is known here is true.
func (w *watch) overflowed() {
	w.pending, w.order, w.dirs = map[entry]*change{}, nil, map[*node]int{}
	w.overflow[w.top] = true
	w.doubtful = true
}

// parse handles what was read from inotify. The caller holds mu.
func (w *watch) parse(b []byte) {
	for len(b) >= syscall.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask, cookie := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:])
		size := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			return
		}
		name := b[syscall.SizeofInotifyEvent:size]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		w.handle(wd, mask, cookie, string(name))
		b = b[size:]
	}
}

func (w *watch) handle(wd int32, mask, cookie uint32, name string) {
	if mask&syscall.IN_Q_OVERFLOW != 0 {
		w.overflowed()
		return
	}
	n := w.byWD[wd]
	if n == nil {
		return
	}
	if name == "" {
		w.handleSelf(n, mask)
		return
	}
	if w.hub.space.HiddenName(n.path(), []byte(name)) {
		return
	}
	e := entry{n, name}
	if mask&entryChange == 0 && w.leave != nil && w.leave.Names(n.path(), name) {
		return
	}
	c := w.pend(e, mask)
	c.there = mask&(syscall.IN_DELETE|syscall.IN_MOVED_FROM) == 0
	directory := mask&syscall.IN_ISDIR != 0
	switch {
	case mask&syscall.IN_MOVED_FROM != 0:
		w.movedFrom(e, cookie, directory)
	case mask&syscall.IN_MOVED_TO != 0:
		w.movedTo(c, cookie, directory)
	case mask&syscall.IN_CREATE != 0 && directory:
		w.appeared(n, name)
	case mask&syscall.IN_DELETE != 0 && directory:
		if gone := w.kids[e]; gone != nil {
			w.detach(gone)
		}
	}
}

func (w *watch) handleSelf(n *node, mask uint32) {
	switch {
	case mask&(syscall.IN_UNMOUNT|syscall.IN_DELETE_SELF) != 0 && n == w.top:
		w.lost = true
	case mask&syscall.IN_IGNORED != 0:
		if w.byWD[n.wd] == n {
			delete(w.byWD, n.wd)
		}
		n.wd = -1
	case mask&syscall.IN_ATTRIB != 0 && n == w.top:
		w.pend(entry{dir: n}, mask) // no parent of it is watched
	}
}

func (w *watch) movedFrom(e entry, cookie uint32, directory bool) {
	m := moved{entry: e}
	if directory {
		m.swapped = w.over[e]
		if m.dir = w.kids[e]; m.dir != nil {
			delete(w.kids, e) // its watches stay until it is known where it went
		}
	}
	w.moves[cookie] = m
}

func (w *watch) movedTo(c *change, cookie uint32, directory bool) {
	m, both := w.moves[cookie]
	delete(w.moves, cookie)
	if directory {
		delete(w.over, c.entry)
		if replaced := w.kids[c.entry]; replaced != nil && replaced != m.dir {
			w.detach(replaced)
			if len(w.over) >= maxOver {
				clear(w.over)
			}
			w.over[c.entry] = true
		}
	}
	if !both {
		if directory {
			w.appeared(c.dir, c.name)
		}
		return
	}
	from := m.entry
	if before := w.pending[from]; before != nil && before.from != nil {
		from, c.old, c.via = *before.from, before.old, append(before.via, before) // renamed twice
		before.from, before.old, before.via = nil, nil, nil
	} else {
		c.old, c.via = before, nil
	}
	if from != c.entry {
		c.from = &from
	} else {
		c.from, c.old, c.via = nil, nil, nil // back where it was
	}
	if directory {
		if m.swapped {
			w.exchanged(m, c.entry)
			return
		}
		if m.dir == nil || m.dir.gone { // it was listed, and so watched, under its new name before this was read
			w.appeared(c.dir, c.name)
			return
		}
		if w.leave.Prunes(c.dir.path(), c.name) {
			w.detachBelow(map[*node]bool{m.dir: true})
			return
		}
		if w.isOther(m.dir, c.path()) { // what was listed under its old name was the one that had come there meanwhile
			w.detachBelow(map[*node]bool{m.dir: true})
			w.appeared(c.dir, c.name)
			return
		}
		m.dir.parent, m.dir.name = c.dir, c.name
		w.kids[c.entry] = m.dir
		w.placed(m.dir)
	}
}

// maxOver: so many names are remembered that one directory took from another. It is only about what comes next.
const maxOver = 1024

// exchanged: two directories have changed names, or one came back from a name at which it had replaced another. inotify
// tells both as the same four events, and RENAME_EXCHANGE as if the first had replaced the second. So both names are
// looked at. The caller holds mu.
func (w *watch) exchanged(m moved, to entry) {
	delete(w.over, m.entry)
	if m.dir != nil {
		w.detachBelow(map[*node]bool{m.dir: true})
	}
	w.appeared(to.dir, to.name)
	w.appeared(m.entry.dir, m.name)
}

// appeared: a directory has come, with what is in it. The caller holds mu.
func (w *watch) appeared(dir *node, name string) {
	if !w.leave.Prunes(dir.path(), name) {
		w.addTree(w.child(dir, name), everything)
	}
}

// movedAway forgets the directories that left the tree: the second half of their rename never came.
func (w *watch) movedAway() {
	dead := map[*node]bool{}
	for cookie, m := range w.moves {
		if m.dir != nil {
			dead[m.dir] = true
		}
		delete(w.moves, cookie)
	}
	if len(dead) > 0 {
		w.detachBelow(dead)
	}
}
