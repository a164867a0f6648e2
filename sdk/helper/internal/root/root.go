// Package root confines all access to the workspace root (sdk/PROTOCOL.md section 4), and reads attributes.
//
// Paths are resolved by the kernel with openat2 beneath the root's descriptor; where that is missing, component by
// component with O_NOFOLLOW. Nothing is ever opened by an absolute path.
package root

import (
	"os"
	"strings"
	"syscall"

	"sealos.io/devbox-helper/internal/sys"
)

// Root is the workspace.
type Root struct {
	FD      int
	Path    string // absolute, without symbolic links
	Hidden  string // the state directory's path, if it is inside
	Openat2 bool
}

// Open opens a directory as the workspace.
func Open(path string) (*Root, error) {
	fd, err := sys.Openat(sys.AtFDCWD, path, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	r := &Root{FD: fd, Path: path}
	if real, err := sys.Readlinkat(sys.AtFDCWD, sys.ProcFD(fd)); err == nil {
		r.Path = real
	}
	// For tests; see the apply package's list of faults.
	if os.Getenv("DEVBOX_HELPER_FAULT") == "no-openat2" {
		return r, nil
	}
	if probe, err := sys.Openat2(fd, ".", sys.OPath, sys.ResolveBeneath); err == nil {
		syscall.Close(probe)
		r.Openat2 = true
	}
	return r, nil
}

// Allowed checks a path's form and keeps the state directory out of sight.
func (r *Root) Allowed(path string) error {
	if err := Check(path); err != nil {
		return err
	}
	if r.Hidden != "" && Within(path, r.Hidden) {
		return syscall.ENOENT
	}
	return nil
}

// TemporaryPrefix begins the names of files that are being copied to another file system inside the workspace.
const TemporaryPrefix = ".devbox-helper-tmp-"

// HiddenName tells whether a name in a directory is the state directory.
func (r *Root) HiddenName(dir string, name []byte) bool {
	if len(name) > len(TemporaryPrefix) && string(name[:len(TemporaryPrefix)]) == TemporaryPrefix {
		return true
	}
	if r.Hidden == "" || len(name) > len(r.Hidden) {
		return false
	}
	parent, last := Split(r.Hidden)
	return last == string(name) && parent == dir
}

// Open opens an existing object beneath the root. Without follow no component may be a symbolic link, except the last
// one with O_PATH, which then is the link itself.
func (r *Root) Open(path string, flags int, follow bool) (int, error) {
	if err := r.Allowed(path); err != nil {
		return -1, err
	}
	if path == "" {
		return sys.Openat(r.FD, ".", flags, 0)
	}
	if !follow {
		return r.openPlain(path, flags)
	}
	if r.Openat2 {
		fd, err := sys.Openat2(r.FD, path, flags, sys.ResolveBeneath|sys.ResolveNoMagic)
		if err != syscall.EXDEV {
			return fd, err
		}
	}
	path, err := r.Resolve(path)
	if err != nil {
		return -1, err
	}
	if path == "" {
		return sys.Openat(r.FD, ".", flags, 0)
	}
	if err := r.Allowed(path); err != nil {
		return -1, err
	}
	return r.openPlain(path, flags)
}

func (r *Root) openPlain(path string, flags int) (int, error) {
	if r.Openat2 {
		return sys.Openat2(r.FD, path, flags|syscall.O_NOFOLLOW, sys.ResolveBeneath|sys.ResolveNoSymlinks|sys.ResolveNoMagic)
	}
	dir, name := r.FD, path
	for {
		head, rest, more := strings.Cut(name, "/")
		var fd int
		var err error
		if more {
			fd, err = sys.Openat(dir, head, sys.OPath|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
		} else {
			fd, err = sys.Openat(dir, head, flags|syscall.O_NOFOLLOW, 0)
		}
		if dir != r.FD {
			syscall.Close(dir)
		}
		if err != nil || !more {
			return fd, err
		}
		dir, name = fd, rest
	}
}

// maxLinks is the kernel's own limit (MAXSYMLINKS).
const maxLinks = 40

// Resolve follows the symbolic links of a path and returns a path without any. A link that leads out of the root is
// EXDEV; an absolute one is beneath it if it begins with the root's own path.
func (r *Root) Resolve(path string) (string, error) {
	done := ""
	links := 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if done == "" {
				return "", syscall.EXDEV
			}
			done, _ = Split(done)
			continue
		}
		next := Join(done, name)
		fd, err := r.openPlain(next, sys.OPath)
		if err != nil {
			return "", err
		}
		var st syscall.Stat_t
		target := ""
		if err = sys.Fstat(fd, &st); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			target, err = sys.Readlinkat(fd, "")
		}
		syscall.Close(fd)
		if err != nil {
			return "", err
		}
		if target == "" {
			if rest != "" && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
				return "", syscall.ENOTDIR
			}
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", syscall.ELOOP
		}
		if target[0] == '/' {
			below, ok := strings.CutPrefix(target, r.Path)
			if !ok || below != "" && below[0] != '/' && r.Path != "/" {
				return "", syscall.EXDEV
			}
			done, target = "", below
		}
		if rest != "" {
			target += "/" + rest
		}
		rest = target
	}
	return done, nil
}

// Parent opens the directory of a path, without following links, and returns the name in it. The root has none: EBUSY.
// The caller closes the descriptor with CloseDir.
func (r *Root) Parent(path string) (int, string, error) {
	if err := r.Allowed(path); err != nil {
		return -1, "", err
	}
	if path == "" {
		return -1, "", syscall.EBUSY
	}
	dir, name := Split(path)
	fd, err := r.OpenDir(dir)
	return fd, name, err
}

// OpenDir opens a directory for use as the base of *at calls. The root's own descriptor is shared.
func (r *Root) OpenDir(dir string) (int, error) {
	if dir == "" {
		return r.FD, nil
	}
	return r.openPlain(dir, sys.OPath|syscall.O_DIRECTORY)
}

// CloseDir closes what OpenDir returned.
func (r *Root) CloseDir(fd int) {
	if fd >= 0 && fd != r.FD {
		syscall.Close(fd)
	}
}

// OpenRegular opens a regular file for reading. Special files are not opened: EINVAL; a directory is EISDIR.
func (r *Root) OpenRegular(path string, follow bool) (int, error) {
	peek, err := r.Open(path, sys.OPath, follow)
	if err != nil {
		return -1, err
	}
	var st syscall.Stat_t
	err = sys.Fstat(peek, &st)
	syscall.Close(peek)
	if err == nil {
		err = regular(&st)
	}
	if err != nil {
		return -1, err
	}
	// O_NONBLOCK: should the name be a FIFO by now, opening it does not wait.
	fd, err := r.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, follow)
	if err != nil {
		return -1, err
	}
	if err = sys.Fstat(fd, &st); err == nil {
		err = regular(&st)
	}
	if err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

func regular(st *syscall.Stat_t) error {
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return nil
	case syscall.S_IFDIR:
		return syscall.EISDIR
	case syscall.S_IFLNK:
		return syscall.ELOOP
	}
	return syscall.EINVAL
}
