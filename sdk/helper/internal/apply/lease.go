package apply

import (
	"strings"
	"sync"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// A lock file that a client made here outlives the client, and would shut everybody else out for good. It is therefore
// leased: 30 s after its client is gone it is removed, if it still is the file that the client made.
//
// The leases of a process are in <state>/leases-RANDOM, which the process has flocked: when nobody has, its owner is
// dead, and the next helper of the workspace takes them over. A process that ends while it has leases leaves a keeper
// behind (see Keep) that inherits the descriptor, and the flock with it.

// outlives is how long a lock outlives its client.
const outlives = 30 * time.Second

const leasesPrefix = "leases-"

// lease is a lock file. Inode number and birth name the file for good.
type lease struct {
	path       string
	journal    string
	generation int64
	ino        uint64
	born       int64
	until      time.Time // zero: its client is here
}

func (l lease) append(b []byte) []byte {
	b = msgpack.AppendStr(msgpack.AppendBinString(msgpack.AppendArray(b, 5), l.path), l.journal)
	b = msgpack.AppendUint(msgpack.AppendInt(b, l.generation), l.ino)
	return msgpack.AppendInt(b, l.born)
}

func parseLease(v msgpack.Value) lease {
	return lease{
		path: string(v.At(0).Bytes), journal: string(v.At(1).Bytes), generation: v.At(2).Int,
		ino: uint64(v.At(3).Int), born: v.At(4).Int,
	}
}

// Leases are the locks that a process answers for. Whoever calls its methods holds the workspace's lock.
type Leases struct {
	space *root.Root
	state *State
	time  time.Duration

	mu   sync.Mutex
	name string
	fd   int // flocked; -1 before the first lease
	all  []lease
}

func newLeases(space *root.Root, state *State) *Leases {
	return &Leases{space: space, state: state, time: leaseTime(), fd: -1}
}

// find returns the lease of a path whose file is still there.
func (l *Leases) find(path string) *lease {
	for i := range l.all {
		if one := &l.all[i]; one.path == path && l.there(one) {
			return one
		}
	}
	return nil
}

// there tells whether the file under the lease's path is the one that was made for it.
func (l *Leases) there(one *lease) bool {
	dir, name, err := l.parent(one.path)
	if err != nil {
		return false
	}
	defer l.space.CloseDir(dir)
	return one.is(dir, name)
}

func (l *lease) is(dir int, name string) bool {
	var st syscall.Stat_t
	return sys.Fstatat(dir, name, &st, sys.AtSymlinkNofollow) == nil && st.Ino == l.ino && sys.Birth(dir, name) == l.born
}

func (l *Leases) parent(path string) (int, string, error) {
	dir, name := root.Split(path)
	fd, err := l.space.OpenDir(dir)
	return fd, name, err
}

// add notes a lease, durably with regard to the end of this process, before its file gets its name.
func (l *Leases) add(one lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.all[:0:0]
	for _, other := range l.all {
		if other.path != one.path && l.there(&other) {
			kept = append(kept, other)
		}
	}
	l.all = append(kept, one)
	return l.save()
}

// save writes the leases down in place: the flock is on the file's inode. The caller holds mu.
func (l *Leases) save() error {
	if l.fd < 0 {
		if len(l.all) == 0 {
			return nil
		}
		name := leasesPrefix + randomName()
		fd, err := sys.Openat(l.state.fd, name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			syscall.Close(fd)
			return err
		}
		l.name, l.fd = name, fd
	}
	b := msgpack.AppendArray(nil, len(l.all))
	for _, one := range l.all {
		b = one.append(b)
	}
	if err := sys.PwriteAll(l.fd, b, 0); err != nil {
		return err
	}
	return syscall.Ftruncate(l.fd, int64(len(b)))
}

// takeOver takes the leases of processes that are dead, and those of a journal that comes back here. Until its client
// says that it still holds one (see Locks) the lease runs.
func (l *Leases) takeOver(journal string, generation int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.all {
		if l.all[i].journal == journal {
			l.all[i].generation = generation
		}
	}
	names, _ := listNames(l.state.fd)
	var dead []string
	for _, name := range names {
		if !strings.HasPrefix(name, leasesPrefix) || name == l.name {
			continue
		}
		fd, err := sys.Openat(l.state.fd, name, syscall.O_RDONLY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		alone := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil
		for _, one := range readLeases(fd) {
			mine := journal != "" && one.journal == journal
			if mine {
				one.generation = generation
			}
			if (alone || mine) && l.there(&one) {
				one.until = time.Now().Add(l.time)
				l.all = append(l.all, one)
			}
		}
		syscall.Close(fd)
		if alone {
			dead = append(dead, name)
		}
	}
	if l.save() == nil {
		for _, name := range dead {
			sys.Unlinkat(l.state.fd, name, 0)
		}
	}
}

func readLeases(fd int) []lease {
	var st syscall.Stat_t
	if sys.Fstat(fd, &st) != nil || st.Size > 1<<20 {
		return nil
	}
	content := make([]byte, st.Size)
	n, err := sys.PreadFull(fd, content, 0)
	if err != nil {
		return nil
	}
	v, err := msgpack.Decode(content[:n])
	if err != nil {
		return nil
	}
	var all []lease
	for _, item := range v.Items {
		all = append(all, parseLease(item))
	}
	return all
}

// claim notes that a client holds the lock: whether it still is there.
func (l *Leases) claim(journal, path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.find(path)
	if one == nil || one.journal != journal {
		return false
	}
	one.until = time.Time{}
	return true
}

// has tells whether a lock of the journal still is there.
func (l *Leases) has(journal, path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.find(path)
	return one != nil && one.journal == journal
}

// leave has every lease run from now on: the client is gone.
func (l *Leases) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.all {
		l.all[i].until = time.Now().Add(l.time)
	}
}

// running tells whether a lease runs.
func (l *Leases) running() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.all {
		if !one.until.IsZero() {
			return true
		}
	}
	return false
}

// expire removes the locks whose time is over; true: no lease is left.
func (l *Leases) expire(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.all[:0:0]
	for _, one := range l.all {
		switch {
		case l.elsewhere(&one) || !l.there(&one):
		case !one.until.IsZero() && now.After(one.until):
			l.remove(&one)
		default:
			kept = append(kept, one)
		}
	}
	if len(kept) != len(l.all) {
		l.all = kept
		l.save()
	}
	return len(kept) == 0
}

// elsewhere tells whether the journal of a lease came back at another helper, which took the lease over.
func (l *Leases) elsewhere(one *lease) bool {
	dir, err := sys.Openat(l.state.fd, one.journal, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(dir)
	m, err := readMeta(dir)
	return err == nil && m.generation > one.generation
}

// remove takes a lock file away. It is renamed to a private name first and looked at there: if somebody else put a file
// of his in its place in this moment, that goes back.
func (l *Leases) remove(one *lease) {
	dir, name, err := l.parent(one.path)
	if err != nil {
		return
	}
	defer l.space.CloseDir(dir)
	gone := "expired-" + randomName()
	switch err := sys.Renameat2(dir, name, l.state.fd, gone, 0); {
	case err == syscall.EXDEV:
		sys.Unlinkat(dir, name, 0)
	case err != nil:
	case one.is(l.state.fd, gone) || sys.Renameat2(l.state.fd, gone, dir, name, sys.RenameNoreplace) != nil:
		sys.Unlinkat(l.state.fd, gone, 0)
	}
}

// close gives the file up. The descriptor stays: it is the flock.
func (l *Leases) close() {
	if l.fd >= 0 {
		sys.Unlinkat(l.state.fd, l.name, 0)
	}
}
