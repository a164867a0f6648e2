package apply

import (
	"strconv"
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// Tracker is the watch's side of a change: events are decided and changes are made under one lock, so that no change
// of ours is taken for a foreign one.
type Tracker interface {
	Lock()
	Unlock()
	// Left tells what a change left under a path; nil: nothing.
	Left(path string, attr *root.Attr)
}

// run is a batch being carried out. dir holds its staged contents and displaced objects.
type run struct {
	space  *root.Root
	track  Tracker
	event  func() uint64
	state  *State
	dir    int
	staged map[int]staged
	dirs   *dirs
	log    *batchLog
	left   func(identity) *outcome // what an operation left; nil: not known any more

	keepOutcome func(outcome) // of a plain call

	incarnation incarnation
	journal     string // of the leases of locks, with its generation
	generation  int64
	leases      *Leases
	doubt       bool   // the current operation may have been done before a crash
	hints       *hints // nil: the log is trusted
	intents     map[int64]uint64
	inPlace     bool      // the current operation changes an object rather than a name
	displaced   []private // to be destroyed once the outcome is logged
}

// private is a name that only the helper knows, with an object that was displaced.
type private struct {
	dir  int
	name string
}

// trouble tells whether an error is one after which the rest of the journal waits (section 6).
func trouble(errno syscall.Errno) bool {
	return errno == syscall.ENOSPC || errno == syscall.EDQUOT || errno == syscall.EIO || errno == syscall.EROFS
}

// failure is the error of an operation; conflict: its precondition did not hold, and there is what was found.
type failure struct {
	errno    syscall.Errno
	conflict bool
	found    *root.Attr
}

func (f *failure) Error() string { return f.errno.Error() }

// partial is the error of an operation that had changed its object by then; left is the object's state.
type partial struct {
	errno syscall.Errno
	left  *root.Attr
}

func (p *partial) Error() string { return p.errno.Error() }

func conflict(errno syscall.Errno, found *root.Attr) error { return &failure{errno, true, found} }

// one carries out an operation and logs its outcome. An error is that of the log: the outcome is not recorded.
func (r *run) one(o *operation) (outcome, error) {
	pass("before")
	r.displaced = r.displaced[:0]
	r.dirs.sweep()
	result := outcome{seq: o.seq}
	r.inPlace = o.kind == "write" || o.kind == "setattr" || o.kind == "setxattr"
	err := o.checkPaths(r.space)
	if err == nil && o.kind == "copy" {
		err = r.prepareCopy(o)
	}
	if err == nil {
		r.track.Lock()
		result.attr, result.other, err = r.do(o)
		result.event = r.event() // no decision falls between the change and this
		r.track.Unlock()
	}
	switch e := err.(type) {
	case nil:
	case *failure:
		result.errno, result.conflict, result.attr = e.errno, e.conflict, e.found
	case *partial:
		result.errno, result.attr = e.errno, e.left
	case syscall.Errno:
		result.errno, result.attr = e, nil
	default:
		result.errno, result.attr = syscall.EIO, nil
	}
	pass("verified")
	if err := r.log.outcome(&result); err != nil {
		return result, err
	}
	pass("logged")
	for _, d := range r.displaced {
		removeTree(d.dir, d.name)
	}
	return result, nil
}

// dropDisplaced destroys what the operation of the last logged outcome displaced, if a crash came between. A file that has
// other names would be told with one link too many.
func (r *run) dropDisplaced(o *operation, logged outcome) {
	if logged.failed() {
		return
	}
	for _, kind := range []string{"gone", "old", "same", "link", "lock", "copy"} {
		removeTree(r.dir, o.own(kind))
	}
}

// dropContents removes what was staged for an operation that has failed: its batch's directory stays for its log.
func (r *run) dropContents(o *operation) {
	if o.content >= 0 {
		sys.Unlinkat(r.dir, o.stagedName(), 0)
	}
	for _, e := range o.extents {
		sys.Unlinkat(r.dir, strconv.Itoa(e.content), 0)
	}
}

func (r *run) do(o *operation) (attr, other *root.Attr, err error) {
	if o.pre.kind == preLeft && r.cancelled(o.pre) || o.sourceUsed && r.cancelled(o.sourcePre) {
		return nil, nil, syscall.ECANCELED
	}
	switch o.kind {
	case "put":
		attr, err = r.put(o)
	case "write":
		attr, err = r.write(o)
	case "lock":
		attr, err = r.lock(o)
	case "mkdir":
		attr, err = r.mkdir(o)
	case "symlink":
		attr, err = r.symlink(o)
	case "link":
		attr, err = r.link(o)
	case "mknod":
		attr, err = r.mknod(o)
	case "unlink", "rmtree":
		err = r.remove(o)
	case "rmdir":
		err = r.rmdir(o)
	case "rename":
		return r.rename(o)
	case "setattr":
		attr, err = r.setattr(o)
	case "setxattr":
		attr, err = r.setxattr(o)
	case "dirtime":
		attr = r.dirtime(o)
	case "copy":
		attr, err = r.copy(o)
	}
	return attr, nil, err
}

// cancelled tells whether the operation that a precondition names has failed.
func (r *run) cancelled(c condition) bool {
	if c.kind != preLeft {
		return false
	}
	before := r.left(c.left)
	return before != nil && before.failed()
}

// place is a name in an open directory.
type place struct {
	*openDir
	path string
	name string
}

// where opens the directory of a path. That it does not exist is a conflict when the object itself should.
func (r *run) where(path string, c condition) (place, error) {
	if path == "" {
		return place{}, syscall.EBUSY
	}
	dir, name := root.Split(path)
	d, err := r.dirs.at(dir)
	if err == syscall.ENOENT && (c.kind == preVersion || c.kind == preLeft || c.kind == preInode) {
		err = conflict(syscall.ENOENT, nil)
	}
	return place{d, path, name}, err
}

// look reads what is under a name: nil when nothing is.
func (p place) look() (*root.Attr, error) {
	var st syscall.Stat_t
	err := sys.Fstatat(p.fd, p.name, &st, sys.AtSymlinkNofollow)
	if err == syscall.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := root.FromStat(&st)
	if a.IsLink() {
		a.Target, _ = sys.Readlinkat(p.fd, p.name)
	}
	return &a, nil
}

// current is what is under a name, with its digest if need be, as an answer to the client.
func (p place) current() *root.Attr {
	a, err := root.AttrAt(p.fd, p.name)
	if err != nil {
		return nil
	}
	return a
}

// check compares what is there with a precondition. A conflict says what was found.
func (r *run) check(c condition, p place, found *root.Attr) error {
	switch c.kind {
	case preNone:
		return nil
	case preAbsent:
		if found != nil {
			return conflict(syscall.EEXIST, p.current())
		}
		return nil
	case preInode:
		if found == nil {
			return conflict(syscall.ENOENT, nil)
		}
		if found.Ino != c.ino {
			return conflict(syscall.ESTALE, p.current())
		}
		return nil
	case preLeft:
		return r.checkLeft(c, p, found)
	}
	return r.checkVersion(c.version, p, found, true)
}

func (r *run) checkLeft(c condition, p place, found *root.Attr) error {
	before := r.left(c.left)
	if before == nil { // forgotten: nothing can be said of it
		return conflict(syscall.ESTALE, p.current())
	}
	if before.attr == nil {
		return r.check(condition{kind: preAbsent}, p, found)
	}
	err := r.checkVersion(before.attr.Version(), p, found, false)
	if err != nil && before.other != nil {
		err = r.checkVersion(before.other.Version(), p, found, false)
	}
	return err
}

// checkVersion: directories are compared by inode alone, since their times change with every entry. A digest in the version
// is compared even if the numbers are equal (thorough), for the file may have changed within one tick of the clock.
func (r *run) checkVersion(v root.Version, p place, found *root.Attr, thorough bool) error {
	if found == nil {
		return conflict(syscall.ENOENT, nil)
	}
	if found.IsDir() && found.Ino == v.Ino {
		return nil
	}
	numbers := found.Ino == v.Ino && found.Mtime == v.Mtime && found.Size == v.Size && (found.Ctime == v.Ctime || v.Ctime == 0)
	if numbers && (v.Sum == nil || !thorough) {
		return nil
	}
	// What makes the difference may be our own change that a crash cut: the private link changes ctime, the rest more.
	if r.doubt && found.Ino == v.Ino && (r.inPlace || found.Mtime == v.Mtime && found.Size == v.Size) {
		return nil
	}
	if v.Sum != nil && found.IsRegular() && found.Size == v.Size {
		equal, err := equalContent(p, v.Sum)
		if equal || (numbers && err != nil) { // not readable (mode 0, as tar's placeholders have it): the numbers must do
			return nil
		}
	}
	return conflict(syscall.ESTALE, p.current())
}

// equalContent compares a file with a digest.
func equalContent(p place, sum []byte) (bool, error) {
	fd, err := root.OpenQuietly(p.fd, p.name)
	if err != nil {
		return false, err
	}
	defer syscall.Close(fd)
	got, err := root.SumFD(fd, maxSum)
	return err == nil && string(got) == string(sum), err
}

func (o *operation) stagedName() string { return strconv.Itoa(o.content) }

// own is a private name in the batch's directory, where names of contents are plain numbers.
func (o *operation) own(kind string) string { return kind + "-" + strconv.FormatInt(o.seq, 10) }

// same tells whether two looks at an object saw the same state, but for what renaming and linking it changes.
func same(a, b *root.Attr) bool {
	return a != nil && b != nil && a.Ino == b.Ino && a.Size == b.Size && a.Mtime == b.Mtime && a.Mode == b.Mode &&
		a.UID == b.UID && a.GID == b.GID
}
