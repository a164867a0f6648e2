package watch

import (
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
)

// frames collects encoded events.
type frames struct {
	w       *watch
	drained bool // everything noted before the flush began is decided by it
	done    [][]byte
	buf     []byte
	count   int
	dirs    map[*node]int // those of which entries came or went: their times, sizes and link counts changed; looks so far

	pending map[entry]*change   // what is decided now
	by      map[*change]*change // who tells of a change because it is what his old name was
	late    map[entry]bool      // what was put off
}

// headRoom is what the head of the array takes at most.
const headRoom = 5

// maxRetries: how often an entry that seems gone is looked at again, because its directory may just have been renamed.
const maxRetries = 10

// decide looks at one entry and appends its event, unless what is there is our own doing. The old name of a rename is
// decided with the new one; should something else have been renamed there, that rename is told right after this one.
func (f *frames) decide(c *change) {
	if c.done {
		return
	}
	c.done = true
	if told := f.decideOne(c); told != nil && told.from == nil {
		told.done = true
	}
	if c.old != nil {
		f.decide(c.old)
	}
}

// decideAll decides every change once, in the order in which they came up; one that another one's rename tells of is
// decided with that, and what is above it first. Renames may form a ring (a swap by way of a third name): there any of
// them is the first.
func (f *frames) decideAll(order []*change) {
	for _, c := range order {
		if c.old != nil {
			f.by[c.old] = c
		}
		for _, between := range c.via {
			f.by[between] = c
		}
	}
	for _, c := range order {
		f.decideFirst(c)
	}
}

func (f *frames) decideFirst(c *change) {
	first := c
	for next := f.by[first]; next != nil && next != c && !next.done; next = f.by[first] {
		first = next
	}
	f.decide(first)
	f.decide(c)
}

// above decides what is pending for a directory and those above it: an event that bears the new name of a directory says
// nothing to a client that has not been told of the rename. False: that was put off.
func (f *frames) above(dir *node) bool {
	if dir == nil {
		return true
	}
	f.w.mu.Lock()
	var names []entry
	for n := dir; n.parent != nil; n = n.parent {
		names = append(names, entry{n.parent, n.name})
	}
	f.w.mu.Unlock()
	for i := len(names) - 1; i >= 0; i-- {
		if c := f.pending[names[i]]; c != nil && !c.done {
			f.decideFirst(c)
		}
		if f.late[names[i]] {
			return false
		}
	}
	return true
}

// decideOne returns what is pending for the old name if the event of that was appended with it.
func (f *frames) decideOne(c *change) *change {
	h := f.w.hub
	told := f.above(c.dir)
	if c.from != nil {
		told = f.above(c.from.dir) && told
	}
	f.w.mu.Lock()
	path := c.path()
	from, old := c.from, c.old
	fromPath := ""
	if from != nil {
		fromPath = from.path()
	}
	gone := c.dir.gone
	f.w.mu.Unlock()
	if !told && !gone && c.retries < maxRetries {
		f.putOff(c)
		return nil
	}
	h.track.Lock()
	defer h.track.Unlock()
	now := f.look(path)
	own, isOwn := f.w.own[path]
	if isOwn && own.ours(now) {
		return nil
	}
	if now == nil && !gone && c.retries < maxRetries && (c.there || f.w.queued()) {
		// The directory may have another name by now, of which the event is in the queue or about to come: inotify is told
		// when the rename is done already. Saying "gone" would lose it.
		f.putOff(c)
		return nil
	}
	f.entered(c.dir, c.mask)
	if from == nil || isOwn || now == nil {
		f.event(path, c.mask, now, "", false)
		return nil
	}
	there := f.look(fromPath)
	if left, known := f.w.own[fromPath]; known && left.ours(there) {
		// Ours has been renamed: from a name that we gave it, which is the one that the client knows, or as part of a directory
		// above, and then no state was left under the name that it has now. What is under the first name is known to the
		// client, and saying that it went would take that away.
		if old = f.known(c.via, now); old == nil {
			f.event(path, c.mask, now, "", false)
			return nil
		}
		f.w.mu.Lock()
		from, fromPath = &old.entry, old.path()
		f.w.mu.Unlock()
		there = f.look(fromPath)
	}
	f.entered(from.dir, syscall.IN_MOVED_FROM)
	mask := uint32(syscall.IN_MOVED_FROM)
	if old != nil {
		mask = old.mask
	}
	f.event(fromPath, mask, nil, "", false)
	f.event(path, c.mask, now, fromPath, true)
	if there != nil && (old == nil || old.from == nil || old.done) { // the old name has been taken again
		f.event(fromPath, mask, there, "", true)
	}
	f.flushIfLarge()
	return old
}

// known returns the last of the names of an object under which we left it. The caller holds hub.track.
func (f *frames) known(names []*change, now *root.Attr) *change {
	for i := len(names) - 1; i >= 0; i-- {
		f.w.mu.Lock()
		path := names[i].path()
		f.w.mu.Unlock()
		if left, known := f.w.own[path]; known && left.attr != nil && left.attr.Ino == now.Ino {
			return names[i]
		}
	}
	return nil
}

const entryChange = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO

// entered notes that the directory itself has changed with an entry: inotify does not say so.
func (f *frames) entered(dir *node, mask uint32) {
	if mask&entryChange != 0 {
		f.dirs[dir] = 0
	}
}

// directories tells of those what they are now, once each, without any bit of inotify.
func (f *frames) directories() {
	for n, looks := range f.dirs {
		told := f.above(n)
		f.w.mu.Lock()
		path, gone := n.path(), n.gone
		f.w.mu.Unlock()
		if gone {
			continue
		}
		f.w.hub.track.Lock()
		now := f.look(path)
		if told && now != nil && now.IsDir() {
			f.event(path, 0, now, "", false)
		}
		f.w.hub.track.Unlock()
		if (now == nil || !told) && looks < maxRetries { // it has another name by now
			f.w.mu.Lock()
			f.w.dirs[n] = looks + 1
			f.w.mu.Unlock()
			f.drained = false
		}
	}
}

func (f *frames) putOff(c *change) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.late[c.entry] = true
	known := f.w.pending[c.entry] != nil // what came later knows better whether it is there
	again := f.w.pend(c.entry, c.mask)
	if !known {
		again.there = c.there
	}
	if again.from == nil {
		again.from = c.from
	}
	again.retries = c.retries + 1
	f.drained = false // it is decided later, and what we left must be known then
	if c.old != nil { // it will have been decided by then: only its name is needed
		again.old = nil
	}
}

func (f *frames) look(path string) *root.Attr {
	attr, err := f.w.hub.space.Stat(path, false)
	if err != nil {
		return nil
	}
	return attr
}

func (f *frames) overflow(n *node, mask uint32) {
	f.w.mu.Lock()
	path := n.path()
	f.w.mu.Unlock()
	f.w.hub.track.Lock()
	defer f.w.hub.track.Unlock()
	f.event(path, mask, nil, "", false)
}

// event numbers and encodes an event; with together it stays in the frame of the one before it. The caller holds hub.track.
func (f *frames) event(path string, mask uint32, attr *root.Attr, from string, together bool) {
	if !together {
		f.flushIfLarge()
	}
	if f.buf == nil {
		f.buf = make([]byte, headRoom, 4096)
	}
	f.w.last = f.w.hub.number.Add(1)
	b := msgpack.AppendUint(msgpack.AppendArray(f.buf, 5), f.w.last)
	b = msgpack.AppendUint(msgpack.AppendBinString(b, path), uint64(mask))
	b = root.AppendAttr(b, attr)
	if from == "" {
		b = msgpack.AppendNil(b)
	} else {
		b = msgpack.AppendBinString(b, from)
	}
	f.buf = b
	f.count++
}

func (f *frames) flushIfLarge() {
	if len(f.buf) >= frameTarget {
		f.end()
	}
}

func (f *frames) end() {
	if f.count == 0 {
		return
	}
	head := msgpack.AppendArray(nil, f.count)
	start := headRoom - len(head)
	copy(f.buf[start:], head)
	f.done = append(f.done, f.buf[start:])
	f.buf, f.count = nil, 0
}
