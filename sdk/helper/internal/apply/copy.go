package apply

import (
	"strings"
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// copyContent copies what is left of one file to another, in the kernel where that works.
func copyContent(from, to int) error {
	for moved := false; ; moved = true {
		n, err := sys.CopyRange(from, to, 1<<30)
		if err == nil && n > 0 {
			continue
		}
		if err == nil && moved {
			return nil
		}
		// Nothing at all: the file is empty, or its file system does not say its size. Errors: another file system,
		// or an old kernel. What is wrong with the disk, the loop below finds out as well.
		break
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := sys.ReadFull(from, buf)
		if err != nil || n == 0 {
			return err
		}
		if err := sys.WriteAll(to, buf[:n]); err != nil {
			return err
		}
	}
}

// prepareCopy makes the copy under a private name, before the change itself and outside the watch's lock.
func (r *run) prepareCopy(o *operation) error {
	if r.cancelled(o.pre) || r.cancelled(o.sourcePre) {
		return syscall.ECANCELED
	}
	if r.doubt {
		if p, err := r.where(o.path, o.pre); err == nil {
			if found, _ := p.look(); found != nil {
				return nil // published already; or not, and then copy finds nothing to publish
			}
		}
	}
	source, err := r.where(o.source, o.sourcePre)
	if err != nil {
		return err
	}
	found, err := source.look()
	if err != nil {
		return err
	}
	if err := r.check(o.sourcePre, source, found); err != nil {
		return err
	}
	if found == nil {
		return syscall.ENOENT
	}
	if found.IsDir() && !o.parents {
		return syscall.EISDIR
	}
	removeTree(r.dir, o.own("copy"))
	return copyObject(source.fd, source.name, r.dir, o.own("copy"), o.parents)
}

// copy publishes what prepareCopy has made.
func (r *run) copy(o *operation) (*root.Attr, error) {
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	found, err := p.look()
	if err != nil {
		return nil, err
	}
	from := private{r.dir, o.own("copy")}
	made, err := inDir(from.dir, from.name).look()
	if err != nil {
		return nil, err
	}
	if made == nil && r.doubt && found != nil {
		r.track.Left(p.path, found)
		return found, nil
	}
	err = r.check(o.pre, p, found)
	if err == nil {
		_, err = r.publishAnywhere(o, from, p, found)
	}
	if err != nil {
		removeTree(from.dir, from.name)
		return nil, err
	}
	attr, err := root.AttrAt(p.fd, p.name)
	if err != nil {
		return nil, err
	}
	if !attr.IsDir() { // below a directory the watch has to tell
		r.track.Left(p.path, attr)
	}
	return attr, nil
}

// copyObject copies an object with its mode, times, owner where permitted, and extended attributes. Links are copied
// as links. Hard links within the tree become files of their own.
func copyObject(fromDir int, from string, toDir int, to string, recursive bool) error {
	var st syscall.Stat_t
	if err := sys.Fstatat(fromDir, from, &st, sys.AtSymlinkNofollow); err != nil {
		return err
	}
	var err error
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		if !recursive {
			return syscall.EISDIR
		}
		err = copyDir(fromDir, from, toDir, to)
	case syscall.S_IFREG:
		err = copyFile(fromDir, from, toDir, to)
	case syscall.S_IFLNK:
		var target string
		if target, err = sys.Readlinkat(fromDir, from); err == nil {
			err = sys.Symlinkat(target, toDir, to)
		}
	default:
		err = sys.Mknodat(toDir, to, st.Mode, uint64(st.Rdev))
	}
	if err != nil {
		return err
	}
	return copyMeta(sys.ProcName(fromDir, from), &st, toDir, to)
}

func copyMeta(from string, st *syscall.Stat_t, toDir int, to string) error {
	fd, err := sys.Openat(toDir, to, sys.OPath|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	sys.Fchownat(fd, "", int(st.Uid), int(st.Gid), sys.AtEmptyPath) // as far as permitted
	copyXattrs(from, toDir, to, "")
	if st.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		if err := sys.ChmodFD(fd, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return sys.Utimensat(fd, "", st.Atim, st.Mtim, 0)
}

func copyFile(fromDir int, from string, toDir int, to string) error {
	source, err := sys.Openat(fromDir, from, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(source)
	target, err := sys.Openat(toDir, to, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer syscall.Close(target)
	return copyContent(source, target)
}

func copyDir(fromDir int, from string, toDir int, to string) error {
	source, err := sys.Openat(fromDir, from, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(source)
	if err := sys.Mkdirat(toDir, to, 0o700); err != nil {
		return err
	}
	target, err := sys.Openat(toDir, to, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(target)
	names, err := listNames(source)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyObject(source, name, target, name, true); err != nil && err != syscall.ENOENT {
			return err
		}
	}
	return nil
}

// copyXattrs copies the attributes whose names begin with prefix, as far as permitted.
func copyXattrs(from string, toDir int, to string, prefix string) {
	names, _ := sys.Llistxattr(from)
	for start, i := 0, 0; i < len(names); i++ {
		if names[i] == 0 {
			name := string(names[start:i])
			start = i + 1
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			if value, err := sys.Lgetxattr(from, name); err == nil {
				sys.Lsetxattr(sys.ProcName(toDir, to), name, value, 0)
			}
		}
	}
}
