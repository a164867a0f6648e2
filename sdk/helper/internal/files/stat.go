package files

import (
	"syscall"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// Stat is `stat`.
func (e *Env) Stat(r *session.Request) ([]byte, error) {
	a := Take(r)
	path, follow, after := a.Path(), a.Bool(), a.Int(0)
	if err := e.begin(r, a, after); err != nil {
		return nil, err
	}
	attr, err := e.Root.Stat(path, follow)
	if err != nil {
		return nil, err
	}
	return attr.Append(nil), nil
}

// StatMany is `stat_many`.
func (e *Env) StatMany(r *session.Request) ([]byte, error) {
	a := Take(r)
	paths, follow := a.Array(), a.Bool()
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	records := NewRecords(r, e.Event)
	for i, v := range paths {
		b := records.Value()
		path, err := Path(v)
		var attr *root.Attr
		if err == nil {
			attr, err = e.Root.Stat(path, follow)
		}
		if err != nil {
			attr = nil
		}
		b = msgpack.AppendInt(msgpack.AppendArray(b, 3), int64(i))
		b = root.AppendAttr(msgpack.AppendInt(b, int64(session.Errno(err))), attr)
		if err := records.Done(b); err != nil {
			return nil, err
		}
	}
	return nil, records.Flush()
}

// List is `list`.
func (e *Env) List(r *session.Request) ([]byte, error) {
	a := Take(r)
	path, after, follow := a.Path(), a.Int(0), a.Bool()
	if err := e.begin(r, a, after); err != nil {
		return nil, err
	}
	fd, err := e.Root.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, follow)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	if follow {
		if real, err := e.Root.Resolve(path); err == nil {
			path = real
		}
	}
	e.WatchDir(path, fd)
	r.Event = e.Event()
	records := NewRecords(r, e.Event)
	buf := make([]byte, 16384)
	err = sys.Dirents(fd, buf, func(name []byte, _ byte) error {
		if e.Root.HiddenName(path, name) {
			return nil
		}
		if r.Cancelled() {
			return syscall.ECANCELED
		}
		b := records.Value() // takes the event number before the system call
		attr, err := root.AttrAt(fd, string(name))
		if err != nil {
			return nil // vanished meanwhile
		}
		return records.Done(attr.Append(msgpack.AppendBin(msgpack.AppendArray(b, 2), name)))
	})
	if err != nil {
		return nil, err
	}
	if err := records.Flush(); err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := sys.Fstat(fd, &st); err != nil {
		return nil, err
	}
	attr := root.FromStat(&st)
	return attr.Append(nil), nil
}

// Readlink is `readlink`.
func (e *Env) Readlink(r *session.Request) ([]byte, error) {
	a := Take(r)
	path := a.Path()
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	if path == "" {
		return nil, syscall.EINVAL
	}
	dir, name, err := e.Root.Parent(path)
	if err != nil {
		return nil, err
	}
	defer e.Root.CloseDir(dir)
	target, err := sys.Readlinkat(dir, name)
	if err != nil {
		return nil, err
	}
	return msgpack.AppendBinString(nil, target), nil
}

// Statvfs is `statvfs`.
func (e *Env) Statvfs(r *session.Request) ([]byte, error) {
	a := Take(r)
	path := a.Path()
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	fd, err := e.Root.Open(path, sys.OPath, false)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	return AppendStatvfs(nil, fd)
}

// AppendStatvfs encodes what statvfs(3) tells of a descriptor's file system.
func AppendStatvfs(b []byte, fd int) ([]byte, error) {
	var st syscall.Statfs_t
	for {
		err := syscall.Fstatfs(fd, &st)
		if err == nil {
			break
		}
		if err != syscall.EINTR {
			return nil, err
		}
	}
	frsize := int64(st.Frsize)
	if frsize == 0 {
		frsize = int64(st.Bsize)
	}
	b = msgpack.AppendArray(b, 10)
	for _, n := range []uint64{uint64(st.Bsize), uint64(frsize), st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Ffree,
		uint64(st.Flags) &^ stValid, uint64(st.Namelen)} {
		b = msgpack.AppendUint(b, n)
	}
	return b, nil
}

// stValid only tells statfs that the other flags mean something (include/linux/statfs.h).
const stValid = 0x20

// Free returns the free bytes and inodes of a descriptor's file system, and its flags.
func Free(fd int) (bytes, inodes uint64, flags int64) {
	var st syscall.Statfs_t
	if syscall.Fstatfs(fd, &st) != nil {
		return 0, 0, 0
	}
	return st.Bavail * uint64(st.Bsize), st.Ffree, int64(st.Flags) &^ stValid
}

// xattrPath is a path through /proc by which the calls without an *at form reach a name in a held directory.
func (e *Env) xattrPath(path string) (string, func(), error) {
	if path == "" {
		return sys.ProcName(e.Root.FD, "."), func() {}, nil
	}
	dir, name, err := e.Root.Parent(path)
	if err != nil {
		return "", nil, err
	}
	return sys.ProcName(dir, name), func() { e.Root.CloseDir(dir) }, nil
}

// Getxattr is `getxattr`.
func (e *Env) Getxattr(r *session.Request) ([]byte, error) {
	a := Take(r)
	path, name := a.Path(), a.Str()
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	full, done, err := e.xattrPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	value, err := sys.Lgetxattr(full, name)
	if err != nil {
		return nil, err
	}
	return msgpack.AppendBin(nil, value), nil
}

// Listxattr is `listxattr`.
func (e *Env) Listxattr(r *session.Request) ([]byte, error) {
	a := Take(r)
	path := a.Path()
	if err := e.begin(r, a, 0); err != nil {
		return nil, err
	}
	full, done, err := e.xattrPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	names, err := sys.Llistxattr(full)
	if err != nil {
		return nil, err
	}
	count := 0
	for _, c := range names {
		if c == 0 {
			count++
		}
	}
	b := msgpack.AppendArray(nil, count)
	for start, i := 0, 0; i < len(names); i++ {
		if names[i] == 0 {
			b = msgpack.AppendBin(b, names[start:i])
			start = i + 1
		}
	}
	return b, nil
}
