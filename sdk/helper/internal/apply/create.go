package apply

import (
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

func inDir(dir int, name string) place { return place{openDir: &openDir{fd: dir}, name: name} }

// put publishes a staged content.
func (r *run) put(o *operation) (*root.Attr, error) {
	content := r.staged[o.content]
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	from := private{r.dir, o.stagedName()}
	if r.doubt {
		if done, err := r.finishPublished(o, from, p, content.ino); done {
			return r.published(p, content, nil), err
		}
	}
	found, err := p.look()
	if err != nil {
		return nil, err
	}
	if err := r.check(o.pre, p, found); err != nil {
		// Equal content is no conflict; the box's mode stays.
		if content.sum != nil && found != nil && found.IsRegular() && found.Size == content.size {
			if equal, _ := equalContent(p, content.sum); equal {
				r.displaced = append(r.displaced, from)
				return p.current(), nil
			}
		}
		return nil, err
	}
	if found != nil && found.IsDir() {
		return nil, syscall.EISDIR
	}
	if p.setgid {
		r.giveGroup(from, p.gid, content.mode)
	}
	if found != nil && found.IsRegular() {
		// Who rewrites a file keeps what hangs on it. Of the other kinds, a rewritten file loses its capabilities anyway.
		copyXattrs(sys.ProcName(p.fd, p.name), from.dir, from.name, "user.")
	}
	before, _ := inDir(from.dir, from.name).look()
	dir, _ := inDir(p.fd, ".").look()
	from, err = r.publishAnywhere(o, from, p, found)
	if err != nil {
		return nil, err
	}
	if found != nil && dir != nil {
		r.keepTime(p, dir)
	}
	if from.dir != r.dir {
		before = nil // another inode
		content.ino = 0
	}
	return r.published(p, content, before), nil
}

// keepTime: to its user the file was rewritten. No entry came or went, so the directory's time stays what it was.
func (r *run) keepTime(p place, dir *root.Attr) {
	sys.Utimensat(p.fd, "", sys.Omit, sys.Timespec(dir.Mtime), 0)
	path, _ := root.Split(p.path)
	r.track.Left(path, dir)
}

// giveGroup: what is made in a set-group-id directory has the directory's group.
func (r *run) giveGroup(from private, gid uint32, mode uint32) {
	fd, err := sys.Openat(from.dir, from.name, sys.OPath|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	if sys.Fchownat(fd, "", -1, int(gid), sys.AtEmptyPath) == nil && mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
		sys.ChmodFD(fd, mode) // chown took the set-id bits away
	}
}

// published is the attr of a content that has its place. It is recorded as ours only if it still is what was staged;
// otherwise the answer tells what was put, and the watch what is there.
func (r *run) published(p place, content staged, before *root.Attr) *root.Attr {
	now, err := p.look()
	if err != nil || now == nil || before != nil && now.Ino != before.Ino || now.Size != content.size || now.Mtime != content.mtime {
		ours := before
		if ours == nil {
			ours = &root.Attr{Mode: syscall.S_IFREG | content.mode, Nlink: 1, Ino: content.ino, Size: content.size, Mtime: content.mtime}
		}
		now = ours
	}
	now.Sum = content.sum
	r.track.Left(p.path, now)
	return now
}

// finishPublished settles, after a crash, whether the object staged under a private name has its place already. If so
// what it displaced is verified now.
func (r *run) finishPublished(o *operation, from private, p place, ino uint64) (bool, error) {
	still, err := inDir(from.dir, from.name).look()
	if err != nil || still != nil && still.Ino == ino {
		return false, nil
	}
	old := private{from.dir, o.own("old")}
	if still != nil { // exchanged: the private name has what was displaced
		return true, r.verifyDisplaced(o, p, from, true)
	}
	if kept, _ := inDir(old.dir, old.name).look(); kept != nil {
		return true, r.verifyDisplaced(o, p, old, false)
	}
	return true, nil
}

// verifyDisplaced compares what an operation that a crash cut has displaced with its precondition.
func (r *run) verifyDisplaced(o *operation, p place, from private, exchanged bool) error {
	at := inDir(from.dir, from.name)
	displaced, err := at.look()
	if err != nil || displaced == nil {
		return err
	}
	if o.pre.kind == preNone || r.check(o.pre, at, displaced) == nil {
		r.displaced = append(r.displaced, from)
		return nil
	}
	if err := sys.Renameat2(from.dir, from.name, p.fd, p.name, sys.RenameExchange); err != nil {
		r.restore(from, p)
	} else {
		r.displaced = append(r.displaced, from) // ours
	}
	return conflict(syscall.ESTALE, p.current())
}

func (r *run) mkdir(o *operation) (*root.Attr, error) {
	if o.parents {
		if err := r.ancestors(o.path); err != nil {
			return nil, err
		}
	}
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	mode := uint32(*o.mode) & 0o7777
	err = sys.Mkdirat(p.fd, p.name, mode)
	pass("changed")
	if err == syscall.EEXIST {
		found, _ := p.look()
		if found != nil && found.IsDir() && r.doubt && !o.parents {
			return r.made(p, mode) // death may have come before it got the bits that the umask took
		}
		if found != nil && found.IsDir() && o.parents {
			r.track.Left(p.path, found)
			return found, nil
		}
		return nil, conflict(syscall.EEXIST, p.current())
	}
	if err != nil {
		return nil, err
	}
	return r.made(p, mode)
}

// made gives a new object the wanted mode where the umask took something away, and reads its attr. An inherited
// set-group-id bit stays.
func (r *run) made(p place, mode uint32) (*root.Attr, error) {
	attr, err := p.look()
	if err != nil || attr == nil {
		return nil, syscall.ESTALE
	}
	if missing := mode &^ (attr.Mode & 0o7777); missing != 0 {
		fd, err := sys.Openat(p.fd, p.name, sys.OPath|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return nil, err
		}
		err = sys.ChmodFD(fd, mode|attr.Mode&syscall.S_ISGID)
		syscall.Close(fd)
		if err != nil {
			return nil, err
		}
		if attr, err = p.look(); err != nil || attr == nil {
			return nil, syscall.ESTALE
		}
	}
	r.track.Left(p.path, attr)
	return attr, nil
}

// ancestors makes the directories above a path that are missing.
func (r *run) ancestors(path string) error {
	dir, _ := root.Split(path)
	if dir == "" {
		return nil
	}
	if _, err := r.dirs.at(dir); err != syscall.ENOENT {
		return err
	}
	if err := r.ancestors(dir); err != nil {
		return err
	}
	p, err := r.where(dir, condition{kind: preNone})
	if err != nil {
		return err
	}
	if err := sys.Mkdirat(p.fd, p.name, 0o777); err != nil && err != syscall.EEXIST {
		return err
	}
	if attr, _ := p.look(); attr != nil {
		r.track.Left(dir, attr)
	}
	return nil
}

// symlink makes the link under a private name, so that it appears with its time and can replace like a put.
func (r *run) symlink(o *operation) (*root.Attr, error) {
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	found, err := p.look()
	if err != nil {
		return nil, err
	}
	if r.doubt && found != nil && found.IsLink() && found.Target == o.target {
		return r.madeSpecial(o, p) // death may have come before it got its time
	}
	if err := r.check(o.pre, p, found); err != nil {
		return nil, err
	}
	if found != nil && o.pre.kind == preNone {
		return nil, conflict(syscall.EEXIST, p.current())
	}
	if found == nil {
		err = sys.Symlinkat(o.target, p.fd, p.name)
		pass("changed")
		if err == syscall.EEXIST {
			err = conflict(syscall.EEXIST, p.current())
		}
	} else {
		from := private{r.dir, o.own("link")}
		sys.Unlinkat(from.dir, from.name, 0)
		if err = sys.Symlinkat(o.target, from.dir, from.name); err == nil {
			_, err = r.publishAnywhere(o, from, p, found)
		}
	}
	if err != nil {
		return nil, err
	}
	return r.madeSpecial(o, p)
}

func (r *run) madeSpecial(o *operation, p place) (*root.Attr, error) {
	if o.mtime != nil {
		if err := sys.Utimensat(p.fd, p.name, sys.Omit, sys.Timespec(*o.mtime), sys.AtSymlinkNofollow); err != nil {
			return nil, err
		}
	}
	attr, err := p.look()
	if err == nil && attr == nil {
		err = syscall.ESTALE
	}
	if err != nil {
		return nil, err
	}
	r.track.Left(p.path, attr)
	return attr, nil
}

func (r *run) mknod(o *operation) (*root.Attr, error) {
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	mode := uint32(*o.mode)
	err = sys.Mknodat(p.fd, p.name, mode, uint64(o.rdev))
	pass("changed")
	if err == syscall.EEXIST {
		found, _ := p.look()
		if !r.doubt || found == nil || found.Mode&syscall.S_IFMT != mode&syscall.S_IFMT || found.Rdev != uint64(o.rdev) {
			return nil, conflict(syscall.EEXIST, p.current())
		}
	} else if err != nil {
		return nil, err
	}
	if _, err := r.made(p, mode&0o7777); err != nil {
		return nil, err
	}
	return r.madeSpecial(o, p)
}

// linkOverEqual gives a file a name that a file of equal content has: both sides have made the same object of git's, say.
func (r *run) linkOverEqual(o *operation, source, p place, existing, found *root.Attr) bool {
	if found == nil || !found.IsRegular() || !existing.IsRegular() || found.Size != existing.Size {
		return false
	}
	fd, err := root.OpenQuietly(source.fd, source.name)
	if err != nil {
		return false
	}
	sum, err := root.SumFD(fd, maxSum)
	syscall.Close(fd)
	if err != nil {
		return false
	}
	if equal, _ := equalContent(p, sum); !equal {
		return false
	}
	own := o.own("same")
	sys.Unlinkat(r.dir, own, 0) // left by a crash
	if sys.Linkat(source.fd, source.name, r.dir, own, 0) != nil {
		return false
	}
	if sys.Renameat2(r.dir, own, p.fd, p.name, 0) != nil {
		sys.Unlinkat(r.dir, own, 0)
		return false
	}
	return true
}

func (r *run) link(o *operation) (*root.Attr, error) {
	source, err := r.where(o.source, o.sourcePre)
	if err != nil {
		return nil, err
	}
	existing, err := source.look()
	if err != nil {
		return nil, err
	}
	if err := r.check(o.sourcePre, source, existing); err != nil {
		return nil, err
	}
	if existing == nil {
		return nil, syscall.ENOENT
	}
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, err
	}
	err = sys.Linkat(source.fd, source.name, p.fd, p.name, 0)
	pass("changed")
	if err == syscall.EEXIST {
		found, _ := p.look()
		if (!r.doubt || found == nil || found.Ino != existing.Ino) && !r.linkOverEqual(o, source, p, existing, found) {
			return nil, conflict(syscall.EEXIST, p.current())
		}
	} else if err != nil {
		return nil, err
	}
	attr, err := p.look()
	if err != nil || attr == nil {
		return nil, syscall.ESTALE
	}
	if attr.Ino != existing.Ino { // the source was replaced between check and link
		sys.Unlinkat(p.fd, p.name, 0)
		return nil, conflict(syscall.ESTALE, source.current())
	}
	r.track.Left(source.path, attr)
	r.track.Left(p.path, attr)
	return r.digest(o.sourcePre, p, attr), nil
}
