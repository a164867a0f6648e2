package apply

import (
	"syscall"

	"sealos.io/devbox-helper/internal/sys"
)

// A batch that only removes things must be applied on a full disk, or the rm that makes room would wait for it. Its
// manifest and log need room themselves, so each journal sets some aside.
const (
	reserveName = "reserve"
	reserveSize = 256 << 10
)

func full(err error) bool { return err == syscall.ENOSPC || err == syscall.EDQUOT }

// setReserve sets room aside if none is. That there is none left for it is no error.
func (j *journal) setReserve() {
	if j.reserved {
		return
	}
	fd, err := sys.Openat(j.fd, reserveName, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	if err := syscall.Fallocate(fd, 0, 0, reserveSize); full(err) {
		sys.Unlinkat(j.fd, reserveName, 0)
		return
	}
	j.reserved = true
}

// useReserve gives the room back to the file system.
func (j *journal) useReserve() bool {
	j.reserved = false
	return sys.Unlinkat(j.fd, reserveName, 0) == nil
}
