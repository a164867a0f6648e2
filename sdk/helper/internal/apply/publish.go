package apply

import (
	"strings"
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// Replacing is a check and a change, and between the two somebody else may act. What is replaced therefore keeps a
// private name across the rename and is compared afterwards; a foreign object is put back.
//
// A rename over an object that was itself renamed there between check and change would still destroy that one.
// RENAME_EXCHANGE cannot: it displaces whatever is there. But watchers in the box see MOVED_TO name followed by
// MOVED_FROM name and may take the file for deleted, so it is used in git directories only, where nobody watches and
// every file is replaced by renames.

// gitDir tells whether a path lies in a git directory.
func gitDir(path string) bool {
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if more && strings.HasSuffix(name, ".git") {
			return true
		}
	}
	return false
}

// renameNoreplace renames to a name that must be free.
func (r *run) renameNoreplace(fromDir int, from string, toDir int, to string) error {
	if r.state.Noreplace {
		return sys.Renameat2(fromDir, from, toDir, to, sys.RenameNoreplace)
	}
	err := sys.Linkat(fromDir, from, toDir, to, 0)
	if err == nil {
		return sys.Unlinkat(fromDir, from, 0)
	}
	var st syscall.Stat_t
	if err == syscall.EEXIST || sys.Fstatat(toDir, to, &st, sys.AtSymlinkNofollow) == nil {
		return syscall.EEXIST
	}
	return sys.Renameat2(fromDir, from, toDir, to, 0) // a directory, or a file system without links
}

// restore puts a displaced object back. Should its name be taken again, it gets one beside it: nothing is ever lost.
func (r *run) restore(from private, p place) {
	if r.renameNoreplace(from.dir, from.name, p.fd, p.name) == nil {
		return
	}
	beside := p.name
	if len(beside) > 200 {
		beside = beside[:200]
	}
	r.renameNoreplace(from.dir, from.name, p.fd, beside+".displaced-"+randomName())
}

// publish gives the object under a private name its place, over found (nil: nothing may be there). It does not look
// at preconditions, but sees to it that exactly found is replaced.
func (r *run) publish(o *operation, from private, p place, found *root.Attr) error {
	switch {
	case o.pre.kind == preNone && found != nil:
		err := sys.Renameat2(from.dir, from.name, p.fd, p.name, 0)
		pass("changed")
		return err
	case found == nil:
		err := r.renameNoreplace(from.dir, from.name, p.fd, p.name)
		pass("changed")
		if err == syscall.EEXIST && o.pre.kind == preNone {
			return sys.Renameat2(from.dir, from.name, p.fd, p.name, 0)
		}
		if err == syscall.EEXIST {
			return conflict(syscall.EEXIST, p.current())
		}
		return err
	case r.state.Exchange && gitDir(p.path):
		return r.publishExchange(from, p, found)
	}
	old := private{from.dir, o.own("old")}
	if !r.keep(p, old, found) {
		if r.state.Exchange {
			return r.publishExchange(from, p, found)
		}
		return sys.Renameat2(from.dir, from.name, p.fd, p.name, 0)
	}
	pass("linked")
	if err := sys.Renameat2(from.dir, from.name, p.fd, p.name, 0); err != nil {
		sys.Unlinkat(old.dir, old.name, 0)
		return r.unpublished(err, p, found)
	}
	pass("changed")
	return r.verifyReplaced(old, p, found)
}

// unpublished is the error of a rename that was not permitted or had no room. The private name that found had meanwhile
// has moved its ctime: the client is told, or it would take that for somebody's change when it tries again.
func (r *run) unpublished(err error, p place, found *root.Attr) error {
	errno, ok := err.(syscall.Errno)
	if !ok || !(trouble(errno) || errno == syscall.EACCES || errno == syscall.EPERM) {
		return err
	}
	now := p.current()
	if !same(now, found) {
		return err
	}
	r.track.Left(p.path, now)
	return &partial{errno, now}
}

// publishAnywhere is publish, by way of a copy if the place is on another file system below the workspace. It returns what
// was published.
func (r *run) publishAnywhere(o *operation, from private, p place, found *root.Attr) (private, error) {
	err := r.publish(o, from, p, found)
	if err != syscall.EXDEV {
		return from, err
	}
	near, err := r.copyAcross(from, p)
	if err == nil {
		if err = r.publish(o, near, p, found); err != nil {
			removeTree(near.dir, near.name)
		}
	}
	r.displaced = append(r.displaced, from)
	return near, err
}

// keep gives the object that is going to be replaced a private name. False: it has none (a directory, or links are not
// possible or not permitted here), or something else is there by now, which an exchange will find out.
func (r *run) keep(p place, old private, found *root.Attr) bool {
	if found.IsDir() {
		return false
	}
	sys.Unlinkat(old.dir, old.name, 0) // left by a crash
	if sys.Linkat(p.fd, p.name, old.dir, old.name, 0) != nil {
		return false
	}
	kept, err := place{openDir: &openDir{fd: old.dir}, name: old.name}.look()
	if err != nil || !same(kept, found) {
		sys.Unlinkat(old.dir, old.name, 0)
		return false
	}
	return true
}

// verifyReplaced compares the kept object once it has been replaced, and puts it back if somebody changed it meanwhile.
func (r *run) verifyReplaced(old private, p place, found *root.Attr) error {
	kept, err := place{openDir: &openDir{fd: old.dir}, name: old.name}.look()
	if err == nil && !same(kept, found) {
		// Ours goes where the foreign one comes from.
		if sys.Renameat2(old.dir, old.name, p.fd, p.name, sys.RenameExchange) != nil {
			r.restore(old, p)
		}
		sys.Unlinkat(old.dir, old.name, 0)
		return conflict(syscall.ESTALE, p.current())
	}
	r.displaced = append(r.displaced, old)
	return err
}

// publishExchange swaps; the displaced object is then under the private name.
func (r *run) publishExchange(from private, p place, found *root.Attr) error {
	if err := sys.Renameat2(from.dir, from.name, p.fd, p.name, sys.RenameExchange); err != nil {
		if err == syscall.ENOENT {
			return conflict(syscall.ENOENT, nil)
		}
		return err
	}
	pass("changed")
	return r.verifyExchanged(from, p, found)
}

func (r *run) verifyExchanged(from private, p place, found *root.Attr) error {
	displaced, err := place{openDir: &openDir{fd: from.dir}, name: from.name}.look()
	if err == nil && !same(displaced, found) {
		ours, _ := p.look()
		if err := sys.Renameat2(from.dir, from.name, p.fd, p.name, sys.RenameExchange); err != nil {
			r.restore(from, p)
		} else if again, _ := (place{openDir: &openDir{fd: from.dir}, name: from.name}).look(); again != nil && ours != nil && again.Ino != ours.Ino {
			// Yet another one had come in between; what was put back is older, but both live.
			r.restore(from, p)
		}
		return conflict(syscall.ESTALE, p.current())
	}
	r.displaced = append(r.displaced, from)
	return err
}

// copyAcross copies a private file to a private name in the target's directory, which is on another file system.
func (r *run) copyAcross(from private, p place) (private, error) {
	to := private{p.fd, root.TemporaryPrefix + randomName()}
	if err := copyObject(from.dir, from.name, to.dir, to.name, true); err != nil {
		removeTree(to.dir, to.name)
		return to, err
	}
	return to, nil
}
