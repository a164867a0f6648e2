// Package sys has the system calls that package syscall lacks, by number, for amd64 and arm64.
//
// Every call retries EINTR, and returns a syscall.Errno or nil. Names are Go strings without NUL; the
// callers check that (root.Check).
package sys

import (
	"syscall"
	"unsafe"
)

// Constants of <fcntl.h>, <linux/openat2.h> and <linux/fs.h> that package syscall lacks or has per architecture.
const (
	AtFDCWD           = -0x64
	AtSymlinkNofollow = 0x100
	AtRemovedir       = 0x200
	AtSymlinkFollow   = 0x400
	AtEmptyPath       = 0x1000
	OPath             = 0x200000
	ResolveNoMagic    = 0x02
	ResolveNoSymlinks = 0x04
	ResolveBeneath    = 0x08
	RenameNoreplace   = 1
	RenameExchange    = 2
	UtimeOmit         = 1<<30 - 2
	FallocKeepSize    = 1
)

// numbers that are the same on both architectures
const (
	nrOpenat2   = 437
	nrFchmodat2 = 452
)

func cstr(s string) *byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return &b[0]
}

// call keeps the objects behind its pointer arguments alive while it runs, retries included.
//
//go:uintptrescapes
func call(nr, a, b, c, d, e uintptr) (uintptr, error) {
	for {
		r, _, errno := syscall.Syscall6(nr, a, b, c, d, e, 0)
		switch errno {
		case 0:
			return r, nil
		case syscall.EINTR:
			continue
		}
		return r, errno
	}
}

// Openat opens a name relative to a directory. O_CLOEXEC is always added.
func Openat(dir int, name string, flags int, mode uint32) (int, error) {
	p := cstr(name)
	for {
		r, _, errno := syscall.Syscall6(syscall.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(flags|syscall.O_CLOEXEC), uintptr(mode), 0, 0)
		if errno == 0 {
			return int(r), nil
		}
		if errno != syscall.EINTR {
			return -1, errno
		}
	}
}

type openHow struct{ flags, mode, resolve uint64 }

// Openat2 is openat2(2), Linux 5.6. EAGAIN (a rename raced with the resolution) is retried a few times.
func Openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	p := cstr(name)
	how := openHow{flags: uint64(flags | syscall.O_CLOEXEC), resolve: resolve}
	for tries := 0; ; tries++ {
		r, _, errno := syscall.Syscall6(nrOpenat2, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		if errno == 0 {
			return int(r), nil
		}
		if errno != syscall.EINTR && (errno != syscall.EAGAIN || tries > 100) {
			return -1, errno
		}
	}
}

// Renameat2 is renameat2(2), Linux 3.15. Without flags it is renameat, which every kernel has.
func Renameat2(oldDir int, oldName string, newDir int, newName string, flags int) error {
	o, n := cstr(oldName), cstr(newName)
	nr := uintptr(nrRenameat2)
	if flags == 0 {
		nr = nrRenameat
	}
	_, err := call(nr, uintptr(oldDir), uintptr(unsafe.Pointer(o)), uintptr(newDir), uintptr(unsafe.Pointer(n)), uintptr(flags))
	return err
}

// Fstatat is fstatat(2).
func Fstatat(dir int, name string, st *syscall.Stat_t, flags int) error {
	p := cstr(name)
	for {
		_, _, errno := syscall.Syscall6(nrFstatat, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(st)), uintptr(flags), 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// FstatatRaw is Fstatat for a NUL-terminated name in a buffer: directories are read without an allocation per entry.
func FstatatRaw(dir int, name *byte, st *syscall.Stat_t, flags int) error {
	for {
		_, _, errno := syscall.Syscall6(nrFstatat, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(st)), uintptr(flags), 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// Fstat is fstat(2).
func Fstat(fd int, st *syscall.Stat_t) error {
	for {
		if err := syscall.Fstat(fd, st); err != syscall.EINTR {
			return err
		}
	}
}

// Readlinkat reads a symbolic link; with an empty name, the one that dir is an O_PATH descriptor of.
func Readlinkat(dir int, name string) (string, error) {
	p := cstr(name)
	var buf [4097]byte
	n, err := call(syscall.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Unlinkat is unlinkat(2).
func Unlinkat(dir int, name string, flags int) error {
	p := cstr(name)
	_, err := call(syscall.SYS_UNLINKAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(flags), 0, 0)
	return err
}

// Mkdirat is mkdirat(2).
func Mkdirat(dir int, name string, mode uint32) error {
	p := cstr(name)
	_, err := call(syscall.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(mode), 0, 0)
	return err
}

// Mknodat is mknodat(2).
func Mknodat(dir int, name string, mode uint32, dev uint64) error {
	p := cstr(name)
	_, err := call(syscall.SYS_MKNODAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(mode), uintptr(dev), 0)
	return err
}

// Symlinkat is symlinkat(2).
func Symlinkat(target string, dir int, name string) error {
	t, p := cstr(target), cstr(name)
	_, err := call(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(t)), uintptr(dir), uintptr(unsafe.Pointer(p)), 0, 0)
	return err
}

// Linkat is linkat(2).
func Linkat(oldDir int, oldName string, newDir int, newName string, flags int) error {
	o, n := cstr(oldName), cstr(newName)
	_, err := call(syscall.SYS_LINKAT, uintptr(oldDir), uintptr(unsafe.Pointer(o)), uintptr(newDir), uintptr(unsafe.Pointer(n)), uintptr(flags))
	return err
}

// Fchownat is fchownat(2); -1 leaves an id alone.
func Fchownat(dir int, name string, uid, gid, flags int) error {
	p := cstr(name)
	_, err := call(syscall.SYS_FCHOWNAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(uid), uintptr(gid), uintptr(flags))
	return err
}

// ChmodFD sets the mode of the object that an O_PATH descriptor stands for: fchmodat2 (Linux 6.6), else through /proc.
func ChmodFD(fd int, mode uint32) error {
	p := cstr("")
	_, err := call(nrFchmodat2, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(mode), AtEmptyPath, 0)
	if err == syscall.ENOSYS || err == syscall.EPERM {
		// Sandboxes answer EPERM to numbers they do not know; a real EPERM comes again.
		p = cstr(ProcFD(fd))
		at := AtFDCWD
		_, err = call(syscall.SYS_FCHMODAT, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(mode), 0, 0)
	}
	return err
}

// Timespec splits nanoseconds since the epoch so that the fraction is never negative.
func Timespec(ns int64) syscall.Timespec {
	s := ns / 1e9
	n := ns % 1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return syscall.Timespec{Sec: s, Nsec: n}
}

// Omit is the timespec that leaves a time alone.
var Omit = syscall.Timespec{Nsec: UtimeOmit}

// Utimensat sets access and modification time. An empty name means the object of the descriptor dir.
func Utimensat(dir int, name string, atime, mtime syscall.Timespec, flags int) error {
	ts := [2]syscall.Timespec{atime, mtime}
	var p *byte
	if name != "" {
		p = cstr(name)
	}
	_, err := call(syscall.SYS_UTIMENSAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&ts)), uintptr(flags), 0)
	if name == "" && err == syscall.EBADF {
		// A null path does not take O_PATH descriptors; an empty one does, from Linux 5.8.
		p = cstr("")
		_, err = call(syscall.SYS_UTIMENSAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&ts)), AtEmptyPath, 0)
		if err == syscall.EINVAL {
			at := AtFDCWD
			p = cstr(ProcFD(dir))
			_, err = call(syscall.SYS_UTIMENSAT, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&ts)), 0, 0)
		}
	}
	return err
}

// Syncfs writes the file system of a descriptor to its storage.
func Syncfs(fd int) error {
	_, err := call(nrSyncfs, uintptr(fd), 0, 0, 0, 0)
	return err
}

// CopyRange is copy_file_range(2) at the descriptors' own offsets.
func CopyRange(from, to int, n int) (int, error) {
	r, err := call(nrCopyRange, uintptr(from), 0, uintptr(to), 0, uintptr(n))
	return int(r), err
}

// ProcFD is the magic link of a descriptor of this process.
func ProcFD(fd int) string {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = byte('0' + fd%10)
		if fd /= 10; fd == 0 {
			return "/proc/self/fd/" + string(digits[i:])
		}
	}
}
