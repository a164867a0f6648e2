package apply

import (
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// dirs keeps the directories of a batch open: most of its files lie in few of them. An entry is used for a short time
// only, because somebody else may move the directory.
type dirs struct {
	space *root.Root
	open  map[string]*openDir
	stale []int // no longer in use by name; an operation may still hold them
}

type openDir struct {
	fd     int
	since  time.Time
	setgid bool // new entries take the directory's group
	gid    uint32
}

const (
	maxOpenDirs = 64
	dirFreshFor = 20 * time.Millisecond
)

func newDirs(space *root.Root) *dirs { return &dirs{space: space, open: map[string]*openDir{}} }

// at returns the open directory with a path.
func (d *dirs) at(path string) (*openDir, error) {
	now := time.Now()
	one := d.open[path]
	if one != nil && now.Sub(one.since) < dirFreshFor {
		return one, nil
	}
	d.drop(path)
	if len(d.open) >= maxOpenDirs {
		for p := range d.open {
			d.drop(p)
		}
	}
	fd, err := d.space.OpenDir(path)
	if err != nil {
		return nil, err
	}
	one = &openDir{fd: fd, since: now}
	var st syscall.Stat_t
	if sys.Fstat(fd, &st) == nil {
		one.setgid, one.gid = st.Mode&syscall.S_ISGID != 0, st.Gid
	}
	d.open[path] = one
	return one, nil
}

func (d *dirs) drop(path string) {
	if one := d.open[path]; one != nil {
		d.stale = append(d.stale, one.fd)
		delete(d.open, path)
	}
}

// moved forgets what lies below a path that was renamed or removed.
func (d *dirs) moved(path string) {
	for p := range d.open {
		if root.Within(p, path) {
			d.drop(p)
		}
	}
}

// sweep closes what was dropped. It is called between operations.
func (d *dirs) sweep() {
	for _, fd := range d.stale {
		d.space.CloseDir(fd)
	}
	d.stale = d.stale[:0]
}

func (d *dirs) close() {
	for p := range d.open {
		d.drop(p)
	}
	d.sweep()
}
