package sys

import (
	"syscall"
	"unsafe"
)

// ReadFull reads until the buffer is full or the file ends.
func ReadFull(fd int, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := syscall.Read(fd, b[n:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return n, err
		}
		n += k
	}
	return n, nil
}

// PreadFull is ReadFull at an offset.
func PreadFull(fd int, b []byte, offset int64) (int, error) {
	n := 0
	for n < len(b) {
		k, err := syscall.Pread(fd, b[n:], offset+int64(n))
		if err == syscall.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return n, err
		}
		n += k
	}
	return n, nil
}

// WriteAll writes all of it, or fails.
func WriteAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// PwriteAll is WriteAll at an offset.
func PwriteAll(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := syscall.Pwrite(fd, b, offset)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

// The poll(2) bits the helper uses.
const (
	PollIn  = 1
	PollOut = 4
)

// Poll waits for a descriptor; false when the time is over first. Negative: for ever.
func Poll(fd int, events int16, milliseconds int64) bool {
	p := pollFD{fd: int32(fd), events: events}
	var ts *syscall.Timespec
	if milliseconds >= 0 {
		t := Timespec(milliseconds * 1e6)
		ts = &t
	}
	n, _, _ := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return int(n) > 0
}

// Dirents calls each for the names of a directory, without "." and "..". The name is NUL-terminated in the
// buffer and valid during the call only. kind is d_type (0: unknown).
func Dirents(fd int, buf []byte, each func(name []byte, kind byte) error) error {
	for {
		n, err := syscall.ReadDirent(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		for b := buf[:n]; len(b) > 19; {
			size := int(b[16]) | int(b[17])<<8
			if size < 20 || size > len(b) {
				return syscall.EIO
			}
			name := b[19:size]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); s != "." && s != ".." {
				if err := each(name, b[18]); err != nil {
					return err
				}
			}
			b = b[size:]
		}
	}
}

// The d_type values the helper looks at.
const (
	DTUnknown = 0
	DTDir     = 4
)

// Lstat of an open directory's xattr-style paths: /proc/self/fd/N/name reaches a name in a held directory with
// calls that have no *at form.
func ProcName(dir int, name string) string { return ProcFD(dir) + "/" + name }

func xattrCall(nr uintptr, path, name string, value []byte, flags int) (int, error) {
	p, n := cstr(path), cstr(name)
	var v *byte
	if len(value) > 0 {
		v = &value[0]
	}
	r, err := call(nr, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(v)), uintptr(len(value)), uintptr(flags))
	return int(r), err
}

// Lsetxattr sets an extended attribute of the object itself.
func Lsetxattr(path, name string, value []byte, flags int) error {
	_, err := xattrCall(nrLsetxattr, path, name, value, flags)
	return err
}

// Lremovexattr removes one.
func Lremovexattr(path, name string) error {
	_, err := xattrCall(nrLremovexattr, path, name, nil, 0)
	return err
}

// Lgetxattr reads one; an attribute is at most 64 KiB (XATTR_SIZE_MAX).
func Lgetxattr(path, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := xattrCall(nrLgetxattr, path, name, buf, 0)
		if err == syscall.ERANGE && len(buf) < 65536 {
			buf = make([]byte, 65536)
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// Llistxattr returns the NUL-terminated names (XATTR_LIST_MAX is 64 KiB).
func Llistxattr(path string) ([]byte, error) {
	buf := make([]byte, 1024)
	for {
		p := cstr(path)
		n, err := call(nrLlistxattr, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
		if err == syscall.ERANGE && len(buf) < 65536 {
			buf = make([]byte, 65536)
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
