package root

import (
	"bytes"
	"crypto/sha256"
	"sync"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/sys"
)

// Attr is an object's attributes (section 1).
type Attr struct {
	Mode                uint32
	Nlink               uint64
	UID, GID            uint32
	Size                int64
	Ino                 uint64
	Mtime, Ctime, Atime int64
	Blocks              int64
	Rdev                uint64
	Target              string
	Sum                 []byte // SHA-256, see Fresh
}

// AttrLen is the number of elements of an attr.
const AttrLen = 13

const (
	freshFor     = 20 * time.Millisecond
	maxFreshSize = 4 << 20
)

// FromStat takes over what stat tells.
func FromStat(st *syscall.Stat_t) Attr {
	return Attr{
		Mode: st.Mode, Nlink: uint64(st.Nlink), UID: st.Uid, GID: st.Gid, Size: st.Size, Ino: st.Ino,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Atime: st.Atim.Nano(), Blocks: st.Blocks, Rdev: uint64(st.Rdev),
	}
}

// Append encodes the attr.
func (a *Attr) Append(b []byte) []byte {
	b = msgpack.AppendArray(b, AttrLen)
	b = msgpack.AppendUint(b, uint64(a.Mode))
	b = msgpack.AppendUint(b, a.Nlink)
	b = msgpack.AppendUint(b, uint64(a.UID))
	b = msgpack.AppendUint(b, uint64(a.GID))
	b = msgpack.AppendInt(b, a.Size)
	b = msgpack.AppendUint(b, a.Ino)
	b = msgpack.AppendInt(b, a.Mtime)
	b = msgpack.AppendInt(b, a.Ctime)
	b = msgpack.AppendInt(b, a.Atime)
	b = msgpack.AppendInt(b, a.Blocks)
	b = msgpack.AppendUint(b, a.Rdev)
	if a.IsLink() {
		b = msgpack.AppendBinString(b, a.Target)
	} else {
		b = msgpack.AppendNil(b)
	}
	if a.Sum == nil {
		return msgpack.AppendNil(b)
	}
	return msgpack.AppendBin(b, a.Sum)
}

// AppendAttr encodes an attr, or nil.
func AppendAttr(b []byte, a *Attr) []byte {
	if a == nil {
		return msgpack.AppendNil(b)
	}
	return a.Append(b)
}

// ParseAttr is the inverse of Append, for attrs that this program wrote.
func ParseAttr(v msgpack.Value) *Attr {
	if v.IsNil() {
		return nil
	}
	n := func(i int) int64 { return v.At(i).Int }
	return &Attr{
		Mode: uint32(n(0)), Nlink: uint64(n(1)), UID: uint32(n(2)), GID: uint32(n(3)), Size: n(4), Ino: uint64(n(5)),
		Mtime: n(6), Ctime: n(7), Atime: n(8), Blocks: n(9), Rdev: uint64(n(10)),
		Target: string(v.At(11).Bytes), Sum: bytes.Clone(v.At(12).Bytes),
	}
}

// IsDir tells whether it is a directory.
func (a *Attr) IsDir() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// IsRegular tells whether it is a regular file.
func (a *Attr) IsRegular() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFREG }

// IsLink tells whether it is a symbolic link.
func (a *Attr) IsLink() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFLNK }

// Fresh tells whether the numbers alone might not tell this content from the next: the file was changed just now.
func (a *Attr) Fresh(now int64) bool {
	return a.IsRegular() && a.Size <= maxFreshSize && now-a.Ctime < int64(freshFor)
}

// Version is what tells one state of an object from another.
type Version struct {
	Ino                uint64
	Ctime, Mtime, Size int64
	Sum                []byte
}

// ParseVersion decodes a version; false for nil or anything else.
func ParseVersion(v msgpack.Value) (Version, bool) {
	if v.Kind != msgpack.Array || len(v.Items) < 4 {
		return Version{}, false
	}
	for i := 0; i < 4; i++ {
		if v.Items[i].Kind != msgpack.Int {
			return Version{}, false
		}
	}
	sum := v.At(4)
	if sum.Kind != msgpack.Nil && (sum.Kind != msgpack.Bin || len(sum.Bytes) != sha256.Size) {
		return Version{}, false
	}
	return Version{uint64(v.Items[0].Int), v.Items[1].Int, v.Items[2].Int, v.Items[3].Int, sum.Bytes}, true
}

// Version is the version of the object with these attributes.
func (a *Attr) Version() Version { return Version{a.Ino, a.Ctime, a.Mtime, a.Size, a.Sum} }

// Match tells whether two versions are of the same state.
func (v Version) Match(o Version) bool {
	return v.Ino == o.Ino && v.Ctime == o.Ctime && v.Mtime == o.Mtime && v.Size == o.Size &&
		(v.Sum == nil || o.Sum == nil || bytes.Equal(v.Sum, o.Sum))
}

// Stat reads the attributes of a path. Without follow a symbolic link is the object itself.
func (r *Root) Stat(path string, follow bool) (*Attr, error) {
	if !follow && path != "" {
		dir, name, err := r.Parent(path)
		if err != nil {
			return nil, err
		}
		defer r.CloseDir(dir)
		return AttrAt(dir, name)
	}
	fd, err := r.Open(path, sys.OPath, follow)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := sys.Fstat(fd, &st); err != nil {
		return nil, err
	}
	a := FromStat(&st)
	if a.Fresh(time.Now().UnixNano()) {
		if file, err := r.OpenRegular(path, follow); err == nil {
			defer syscall.Close(file)
			return AttrFD(file)
		}
	}
	return &a, nil
}

// AttrAt reads the attributes of a name in a directory, links not followed.
func AttrAt(dir int, name string) (*Attr, error) {
	var st syscall.Stat_t
	if err := sys.Fstatat(dir, name, &st, sys.AtSymlinkNofollow); err != nil {
		return nil, err
	}
	return Complete(dir, name, &st)
}

// Complete adds the target of a link, and the digest of a file that was changed just now, to what stat told.
func Complete(dir int, name string, st *syscall.Stat_t) (*Attr, error) {
	a := FromStat(st)
	if a.IsLink() {
		var err error
		a.Target, err = sys.Readlinkat(dir, name)
		return &a, err
	}
	if a.IsRegular() && a.Fresh(time.Now().UnixNano()) {
		fd, err := OpenQuietly(dir, name)
		if err != nil {
			return &a, nil // not readable, or changed again: the numbers must do
		}
		defer syscall.Close(fd)
		return AttrFD(fd)
	}
	return &a, nil
}

// OpenQuietly opens a file for our own reading, which does not count as access where it is the user's file.
func OpenQuietly(dir int, name string) (int, error) {
	const flags = syscall.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	fd, err := sys.Openat(dir, name, flags|syscall.O_NOATIME, 0)
	if err == syscall.EPERM {
		fd, err = sys.Openat(dir, name, flags, 0)
	}
	return fd, err
}

// AttrFD reads the attributes of an open regular file.
func AttrFD(fd int) (*Attr, error) {
	for tries := 0; ; tries++ {
		var st, after syscall.Stat_t
		if err := sys.Fstat(fd, &st); err != nil {
			return nil, err
		}
		a := FromStat(&st)
		if !a.Fresh(time.Now().UnixNano()) {
			return &a, nil
		}
		sum, err := SumFD(fd, maxFreshSize)
		if err != nil {
			return &a, nil
		}
		if err := sys.Fstat(fd, &after); err != nil {
			return nil, err
		}
		if st.Ctim == after.Ctim && st.Size == after.Size {
			a.Sum = sum
			return &a, nil
		}
		if tries == 3 { // being written all the time: a digest of no state would be worse than none
			a = FromStat(&after)
			return &a, nil
		}
	}
}

var buffers = sync.Pool{New: func() any { return new([65536]byte) }}

// SumFD is the SHA-256 of an open file's content, EFBIG beyond limit.
func SumFD(fd int, limit int64) ([]byte, error) {
	h := sha256.New()
	pooled := buffers.Get().(*[65536]byte)
	defer buffers.Put(pooled)
	buf := pooled[:]
	for offset := int64(0); ; {
		n, err := sys.PreadFull(fd, buf, offset)
		if err != nil {
			return nil, err
		}
		h.Write(buf[:n])
		offset += int64(n)
		if n < len(buf) {
			return h.Sum(nil), nil
		}
		if offset > limit {
			return nil, syscall.EFBIG
		}
	}
}
