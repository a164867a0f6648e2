package apply

import (
	"strconv"
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// held opens the very object that was checked, so that the change is made to no other.
func (r *run) held(o *operation) (place, int, *root.Attr, error) {
	var p place
	if o.path == "" { // the root itself has attributes, but no name
		p = place{openDir: &openDir{fd: r.space.FD}, name: "."}
	} else {
		var err error
		if p, err = r.where(o.path, o.pre); err != nil {
			return p, -1, nil, err
		}
	}
	fd, err := sys.Openat(p.fd, p.name, sys.OPath|syscall.O_NOFOLLOW, 0)
	if err == syscall.ENOENT {
		if err := r.check(o.pre, p, nil); err != nil {
			return p, -1, nil, err
		}
	}
	if err != nil {
		return p, -1, nil, err
	}
	var st syscall.Stat_t
	err = sys.Fstat(fd, &st)
	found := root.FromStat(&st)
	if err == nil {
		err = r.check(o.pre, p, &found)
	}
	if err != nil {
		syscall.Close(fd)
		return p, -1, nil, err
	}
	return p, fd, &found, nil
}

// changed reads what an operation in place has left; a conflict if the name is of another object by now.
func (r *run) changed(p place, before *root.Attr) (*root.Attr, error) {
	pass("changed")
	attr, err := root.AttrAt(p.fd, p.name)
	if err == syscall.ENOENT {
		return nil, conflict(syscall.ENOENT, nil)
	}
	if err != nil {
		return nil, err
	}
	if attr.Ino != before.Ino {
		return nil, conflict(syscall.ESTALE, attr)
	}
	r.track.Left(p.path, attr)
	return attr, nil
}

func (r *run) setattr(o *operation) (*root.Attr, error) {
	p, fd, found, err := r.held(o)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	if o.mode != nil && found.IsLink() {
		return nil, syscall.EOPNOTSUPP
	}
	if o.uid != nil || o.gid != nil {
		uid, gid := -1, -1
		if o.uid != nil {
			uid = int(*o.uid)
		}
		if o.gid != nil {
			gid = int(*o.gid)
		}
		if err := sys.Fchownat(fd, "", uid, gid, sys.AtEmptyPath); err != nil {
			return nil, err
		}
	}
	if o.mode != nil {
		if err := sys.ChmodFD(fd, uint32(*o.mode)&0o7777); err != nil {
			return nil, err
		}
	}
	if o.atime != nil || o.mtime != nil {
		atime, mtime := sys.Omit, sys.Omit
		if o.atime != nil {
			atime = sys.Timespec(*o.atime)
		}
		if o.mtime != nil {
			mtime = sys.Timespec(*o.mtime)
		}
		if err := sys.Utimensat(fd, "", atime, mtime, 0); err != nil {
			return nil, err
		}
	}
	return r.changed(p, found)
}

func (r *run) setxattr(o *operation) (*root.Attr, error) {
	p, fd, found, err := r.held(o)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	// No such call takes a descriptor of a link, or an O_PATH one; the name in the held directory is next best.
	path := sys.ProcName(p.fd, p.name)
	if o.hasValue {
		err = sys.Lsetxattr(path, o.name, o.value, int(o.flags))
		if err == syscall.EEXIST && r.doubt {
			err = nil
		}
		if err == syscall.ENOSPC && hasRoom(p.fd) {
			// The object has no room for it (ext4: one block for all of them). That is no trouble of the box's.
			err = syscall.E2BIG
		}
	} else {
		err = sys.Lremovexattr(path, o.name)
		if err == syscall.ENODATA && r.doubt {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	return r.changed(p, found)
}

// hasRoom says whether the file system of an open directory could take another mebibyte.
func hasRoom(fd int) bool {
	var st syscall.Statfs_t
	return syscall.Fstatfs(fd, &st) == nil && st.Bavail*uint64(st.Bsize) >= 1<<20
}

func (r *run) dirtime(o *operation) *root.Attr {
	o.pre = condition{kind: preNone}
	p, fd, found, err := r.held(o)
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	if found.IsDir() && found.Mtime != *o.mtime {
		sys.Utimensat(fd, "", sys.Omit, sys.Timespec(*o.mtime), 0)
	}
	attr, err := p.look()
	if err != nil {
		return nil
	}
	if attr != nil {
		r.track.Left(p.path, attr)
	}
	return attr
}

func (r *run) write(o *operation) (*root.Attr, error) {
	p, held, found, err := r.held(o)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(held)
	switch {
	case found.IsDir():
		return nil, syscall.EISDIR
	case found.IsLink():
		return nil, syscall.ELOOP
	case !found.IsRegular():
		return nil, syscall.EINVAL
	}
	fd, err := openWritable(p, held, found)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := sys.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Ino != found.Ino {
		return nil, conflict(syscall.ESTALE, p.current())
	}
	for _, e := range o.extents {
		if err := r.copyExtent(e, fd); err != nil {
			return nil, r.cut(err, p, found)
		}
		pass("changed")
	}
	if o.size != nil {
		if err := syscall.Ftruncate(fd, *o.size); err != nil {
			return nil, r.cut(err, p, found)
		}
	}
	if o.mtime != nil {
		if err := sys.Utimensat(fd, "", sys.Omit, sys.Timespec(*o.mtime), 0); err != nil {
			return nil, r.cut(err, p, found)
		}
	}
	attr, err := r.changed(p, found)
	if err != nil {
		return nil, err
	}
	for _, e := range o.extents {
		r.displaced = append(r.displaced, private{r.dir, strconv.Itoa(e.content)})
	}
	return attr, nil
}

// cut is the error of a write that could not be finished: the client, who will send the rest, is told what it has left
// of the object, or it would take its own half for somebody else's change.
func (r *run) cut(err error, p place, before *root.Attr) error {
	errno, ok := err.(syscall.Errno)
	if !ok {
		return err
	}
	attr, e := root.AttrAt(p.fd, p.name)
	if e != nil || attr.Ino != before.Ino {
		return err
	}
	r.track.Left(p.path, attr)
	return &partial{errno, attr}
}

// openWritable opens a file for writing. A file's mode does not bind whoever had it open when the mode was set, and the
// client's user may have: an owner may write to a read-only file of his.
func openWritable(p place, held int, found *root.Attr) (int, error) {
	flags := syscall.O_WRONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	fd, err := sys.Openat(p.fd, p.name, flags, 0)
	if err != syscall.EACCES || found.Mode&0o200 != 0 {
		return fd, err
	}
	mode := found.Mode & 0o7777
	if e := sys.ChmodFD(held, mode|0o200); e != nil {
		return -1, err
	}
	fd, err = sys.Openat(p.fd, p.name, flags, 0)
	sys.ChmodFD(held, mode)
	return fd, err
}

func (r *run) copyExtent(e extent, fd int) error {
	from, err := sys.Openat(r.dir, strconv.Itoa(e.content), syscall.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(from)
	if _, err := syscall.Seek(fd, e.offset, 0); err != nil {
		return err
	}
	return copyContent(from, fd)
}
