package apply

import (
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// remove is unlink and rmtree: the object is renamed to a private name, compared, and destroyed once that is logged.
func (r *run) remove(o *operation) error {
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return err
	}
	gone := private{r.dir, o.own("gone")}
	if r.doubt {
		if displaced, _ := inDir(gone.dir, gone.name).look(); displaced != nil {
			if o.pre.kind != preNone && r.check(o.pre, inDir(gone.dir, gone.name), displaced) != nil {
				r.restore(gone, p)
				return conflict(syscall.ESTALE, p.current())
			}
			r.removed(p, gone)
			return nil
		}
	}
	found, err := p.look()
	if err != nil {
		return err
	}
	if found == nil && r.doubt {
		r.track.Left(p.path, nil)
		return nil
	}
	if err := r.check(o.pre, p, found); err != nil {
		return err
	}
	switch {
	case found == nil:
		return syscall.ENOENT
	case found.IsDir() && o.kind == "unlink":
		return syscall.EISDIR
	case !found.IsDir() && o.kind == "rmtree":
		return syscall.ENOTDIR
	}
	if o.kind == "unlink" && o.pre.kind == preNone {
		err = sys.Unlinkat(p.fd, p.name, 0)
		pass("changed")
		if err == nil {
			r.track.Left(p.path, nil)
		}
		return err
	}
	err = sys.Renameat2(p.fd, p.name, gone.dir, gone.name, 0)
	pass("changed")
	if err == syscall.EXDEV || err == syscall.EACCES && found.IsDir() {
		// Another file system below the workspace (or a directory of an image's lower layer, or one that is not ours
		// to rename): nothing can be held back.
		r.dirs.moved(p.path)
		if err = removeTree(p.fd, p.name); err == nil {
			r.track.Left(p.path, nil)
		}
		return err
	}
	if err == syscall.ENOENT && o.pre.kind != preNone {
		return conflict(syscall.ENOENT, nil) // gone since it was looked at
	}
	if err != nil {
		return err
	}
	displaced, _ := inDir(gone.dir, gone.name).look()
	if displaced != nil && !same(displaced, found) && !(found.IsDir() && displaced.Ino == found.Ino) {
		r.restore(gone, p)
		return conflict(syscall.ESTALE, p.current())
	}
	r.removed(p, gone)
	return nil
}

func (r *run) removed(p place, gone private) {
	r.displaced = append(r.displaced, gone)
	r.dirs.moved(p.path)
	r.track.Left(p.path, nil)
}

func (r *run) rmdir(o *operation) error {
	p, err := r.where(o.path, o.pre)
	if err != nil {
		return err
	}
	found, err := p.look()
	if err != nil {
		return err
	}
	if found == nil && r.doubt {
		r.track.Left(p.path, nil)
		return nil
	}
	if err := r.check(o.pre, p, found); err != nil {
		return err
	}
	// Only an empty directory can go, so nothing foreign is lost if it was replaced just now.
	err = sys.Unlinkat(p.fd, p.name, sys.AtRemovedir)
	pass("changed")
	if err == syscall.ENOENT && o.pre.kind != preNone {
		return conflict(syscall.ENOENT, nil)
	}
	if err == nil {
		r.dirs.moved(p.path)
		r.track.Left(p.path, nil)
	}
	return err
}

// rename moves source to path.
func (r *run) rename(o *operation) (attr, other *root.Attr, err error) {
	from, err := r.where(o.source, o.sourcePre)
	if err != nil {
		return nil, nil, err
	}
	to, err := r.where(o.path, o.pre)
	if err != nil {
		return nil, nil, err
	}
	source, err := from.look()
	if err != nil {
		return nil, nil, err
	}
	target, err := to.look()
	if err != nil {
		return nil, nil, err
	}
	if ino, began := r.intents[o.seq]; r.doubt && began && target != nil && target.Ino == ino && (source == nil || source.Ino != ino) {
		return r.finishRename(o, from, to, source)
	}
	if r.hints != nil && r.renamedBefore(o, from, to, source, target) {
		return r.finishRename(o, from, to, source)
	}
	if err := r.check(o.sourcePre, from, source); err != nil {
		return nil, nil, err
	}
	if source == nil {
		return nil, nil, syscall.ENOENT
	}
	if err := r.check(o.pre, to, target); err != nil && !r.replacesItsLike(o, from, to, source, target) {
		return nil, nil, err
	}
	if err := r.log.intent(o.seq, source.Ino); err != nil {
		return nil, nil, err
	}
	if o.flags&sys.RenameExchange != 0 {
		return r.exchange(o, from, to, source, target)
	}
	if target != nil && target.Ino == source.Ino && o.flags == 0 {
		r.track.Left(to.path, target)
		return target, nil, nil // two names of one file: rename(2) does nothing
	}
	if target != nil && o.flags&sys.RenameNoreplace != 0 {
		return nil, nil, syscall.EEXIST
	}
	kept := r.displaced
	err = r.publishRename(o, private{from.fd, from.name}, to, target)
	if err == syscall.ENOENT && (o.sourcePre.kind != preNone || o.pre.kind != preNone) {
		err = conflict(syscall.ENOENT, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	now, _ := to.look()
	if now == nil || now.Ino != source.Ino || !source.IsDir() && !same(now, source) {
		// What was moved is not what was checked: it goes back, and so does what it replaced.
		r.restore(private{to.fd, to.name}, from)
		if len(r.displaced) > len(kept) {
			r.restore(r.displaced[len(kept)], to)
			r.displaced = kept
		}
		return nil, nil, conflict(syscall.ESTALE, from.current())
	}
	return r.digest(o.sourcePre, to, r.renamed(from, to, now)), nil, nil
}

// renamedBefore tells whether a rename that an untrusted log begins was done. What is left under the source's name by an
// exchange, the one asked for or that of a git directory, is what the target was to be.
func (r *run) renamedBefore(o *operation, from, to place, source, target *root.Attr) bool {
	ino, began := r.hints.intents[o.seq]
	exchange := o.flags&sys.RenameExchange != 0
	switch {
	case !began || target == nil || target.Ino != ino:
		return false
	case source == nil:
		return !exchange
	case source.Ino == ino || o.pre.kind == preNone && !exchange:
		return false
	}
	return r.check(o.sourcePre, to, target) == nil && r.check(o.pre, from, source) == nil
}

// replacesItsLike: when the machine was restarted, what made the source is done again, perhaps after its rename was done
// already. What that left is of no other content then.
func (r *run) replacesItsLike(o *operation, from, to place, source, target *root.Attr) bool {
	if r.hints == nil || o.flags != 0 || target == nil || !source.IsRegular() || !target.IsRegular() || source.Size != target.Size || source.Size > maxSum {
		return false
	}
	fd, err := root.OpenQuietly(from.fd, from.name)
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	sum, err := root.SumFD(fd, maxSum)
	if err != nil {
		return false
	}
	equal, err := equalContent(to, sum)
	return equal && err == nil
}

// digest adds the digest to the attr of a file that a change of its name has made fresh; the operation that the
// precondition names may have it already.
func (r *run) digest(c condition, p place, a *root.Attr) *root.Attr {
	if !a.IsRegular() || a.Sum != nil {
		return a
	}
	if c.kind == preLeft {
		if before := r.left(c.left); before != nil && before.attr != nil && before.attr.Sum != nil && same(before.attr, a) {
			a.Sum = before.attr.Sum
			return a
		}
	}
	if full := p.current(); full != nil && same(full, a) {
		return full
	}
	return a
}

// publishRename is publish for a source inside the workspace: private names are in the batch's directory all the same.
func (r *run) publishRename(o *operation, from private, to place, target *root.Attr) error {
	switch {
	case target == nil && (o.pre.kind != preNone || o.flags&sys.RenameNoreplace != 0):
		err := r.renameNoreplace(from.dir, from.name, to.fd, to.name)
		pass("changed")
		if err == syscall.EEXIST && o.pre.kind != preNone {
			err = conflict(syscall.EEXIST, to.current())
		}
		return err
	case target == nil || o.pre.kind == preNone || target.IsDir():
		err := sys.Renameat2(from.dir, from.name, to.fd, to.name, 0)
		pass("changed")
		return err
	}
	old := private{r.dir, o.own("old")}
	if r.state.Exchange && gitDir(to.path) || !r.keep(to, old, target) {
		if !r.state.Exchange {
			return sys.Renameat2(from.dir, from.name, to.fd, to.name, 0)
		}
		if err := sys.Renameat2(from.dir, from.name, to.fd, to.name, sys.RenameExchange); err != nil {
			return err
		}
		pass("changed")
		return r.putAside(o, from, to, target)
	}
	pass("linked")
	if err := sys.Renameat2(from.dir, from.name, to.fd, to.name, 0); err != nil {
		sys.Unlinkat(old.dir, old.name, 0)
		return err
	}
	pass("changed")
	kept, err := inDir(old.dir, old.name).look()
	if err == nil && !same(kept, target) {
		// Ours back to its old name, the foreign one to the name it was under.
		if sys.Renameat2(old.dir, old.name, to.fd, to.name, sys.RenameExchange) == nil {
			r.restore(old, place{openDir: &openDir{fd: from.dir}, name: from.name})
		} else {
			r.restore(old, to)
		}
		return conflict(syscall.ESTALE, to.current())
	}
	r.displaced = append(r.displaced, old)
	return err
}

// putAside takes what an exchange has left under the source's name to a private name, after comparing it.
func (r *run) putAside(o *operation, from private, to place, target *root.Attr) error {
	left, err := inDir(from.dir, from.name).look()
	if err == nil && target != nil && !same(left, target) {
		sys.Renameat2(from.dir, from.name, to.fd, to.name, sys.RenameExchange)
		return conflict(syscall.ESTALE, to.current())
	}
	old := private{r.dir, o.own("old")}
	err = sys.Renameat2(from.dir, from.name, old.dir, old.name, 0)
	if err == syscall.EXDEV {
		return sys.Unlinkat(from.dir, from.name, 0)
	}
	if err == nil {
		r.displaced = append(r.displaced, old)
	}
	return err
}

func (r *run) renamed(from, to place, now *root.Attr) *root.Attr {
	r.dirs.moved(from.path)
	r.dirs.moved(to.path)
	r.track.Left(from.path, nil)
	r.track.Left(to.path, now)
	return now
}

// finishRename completes what a crash cut after the rename itself.
func (r *run) finishRename(o *operation, from, to place, source *root.Attr) (attr, other *root.Attr, err error) {
	if o.flags&sys.RenameExchange == 0 && source != nil { // exchanged in a git directory
		if err := r.putAside(o, private{from.fd, from.name}, to, nil); err != nil {
			return nil, nil, err
		}
		source = nil
	}
	old := private{r.dir, o.own("old")}
	if kept, _ := inDir(old.dir, old.name).look(); kept != nil {
		r.displaced = append(r.displaced, old)
	}
	now, err := to.look()
	if err != nil || now == nil {
		return nil, nil, syscall.ESTALE
	}
	r.renamed(from, to, now)
	if source != nil {
		r.track.Left(from.path, source)
	}
	return r.digest(o.sourcePre, to, now), source, nil
}

func (r *run) exchange(o *operation, from, to place, source, target *root.Attr) (attr, other *root.Attr, err error) {
	if target == nil {
		return nil, nil, syscall.ENOENT
	}
	swap := func() error { return sys.Renameat2(from.fd, from.name, to.fd, to.name, sys.RenameExchange) }
	if err := swap(); err != nil {
		return nil, nil, err
	}
	pass("changed")
	attr, _ = to.look()
	other, _ = from.look()
	moved := func(now, before *root.Attr) bool {
		return now != nil && now.Ino == before.Ino && (before.IsDir() || same(now, before))
	}
	if !moved(attr, source) || !moved(other, target) {
		swap()
		return nil, nil, conflict(syscall.ESTALE, to.current())
	}
	r.renamed(from, to, attr)
	r.track.Left(from.path, other)
	return r.digest(o.sourcePre, to, attr), other, nil
}
