package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/sys"
)

// State is the helper's own directory (section 6).
type State struct {
	fd        int
	Path      string
	Noreplace bool
	Exchange  bool
}

const insideName = ".devbox-helper"

// OpenState finds or makes the state directory, and tells the root where it is if it is inside.
func OpenState(space *root.Root, chosen string) (*State, error) {
	var candidates []string
	if chosen != "" {
		absolute, err := filepath.Abs(chosen)
		if err != nil {
			return nil, err
		}
		candidates = []string{absolute}
	} else {
		if parent := filepath.Dir(space.Path); parent != space.Path {
			sum := sha256.Sum256([]byte(space.Path))
			candidates = append(candidates, filepath.Join(parent, insideName+"-"+hex.EncodeToString(sum[:4])))
		}
		candidates = append(candidates, filepath.Join(space.Path, insideName))
	}
	var err error
	for i, path := range candidates {
		var s *State
		if s, err = openState(space, path, chosen == "" && i < len(candidates)-1); err == nil {
			prefix := space.Path
			if prefix != "/" {
				prefix += "/"
			}
			if below, ok := strings.CutPrefix(s.Path, prefix); ok {
				space.Hidden = below
			}
			s.probe()
			return s, nil
		}
	}
	return nil, err
}

func openState(space *root.Root, path string, beside bool) (*State, error) {
	made := syscall.Mkdir(path, 0o700)
	if made != nil && made != syscall.EEXIST {
		return nil, made
	}
	fd, err := sys.Openat(sys.AtFDCWD, path, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err = sys.Fstat(fd, &st); err == nil {
		switch {
		case int(st.Uid) != os.Geteuid():
			err = syscall.EPERM // somebody else's: what lies in it could be theirs to change
		case st.Mode&0o777 != 0o700:
			err = syscall.Fchmod(fd, 0o700)
		}
	}
	// Rename compares the mounts before it looks for the name, so this tells whether renames work and changes nothing.
	if beside && err == nil {
		if probe := sys.Renameat2(fd, "no such name", space.FD, "no such name", 0); probe != syscall.ENOENT {
			err = probe
		}
	}
	if err != nil {
		syscall.Close(fd)
		if made == nil {
			syscall.Rmdir(path)
		}
		return nil, err
	}
	s := &State{fd: fd, Path: path}
	if real, err := sys.Readlinkat(sys.AtFDCWD, sys.ProcFD(fd)); err == nil {
		s.Path = real
	}
	return s, nil
}

// probe finds out which flags of renameat2 work on this file system.
func (s *State) probe() {
	suffix := "-" + randomName()
	a, b := "probe-a"+suffix, "probe-b"+suffix
	for _, name := range []string{a, b} {
		fd, err := sys.Openat(s.fd, name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL, 0o600)
		if err != nil {
			return
		}
		syscall.Close(fd)
		defer sys.Unlinkat(s.fd, name, 0)
	}
	s.Exchange = sys.Renameat2(s.fd, a, s.fd, b, sys.RenameExchange) == nil
	s.Noreplace = sys.Renameat2(s.fd, a, s.fd, b, sys.RenameNoreplace) == syscall.EEXIST
}

// lock takes the workspace's lock, which excludes every other helper of this workspace.
func (s *State) lock() (int, error) {
	fd, err := sys.Openat(s.fd, "lock", syscall.O_RDWR|syscall.O_CREAT|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, err
	}
	for {
		err := syscall.Flock(fd, syscall.LOCK_EX)
		if err == nil {
			return fd, nil
		}
		if err != syscall.EINTR {
			syscall.Close(fd)
			return -1, err
		}
	}
}

// removeTree removes a name in a directory with all it holds. Missing is success.
func removeTree(dir int, name string) error {
	err := sys.Unlinkat(dir, name, 0)
	if err == nil || err == syscall.ENOENT {
		return nil
	}
	if err != syscall.EISDIR && err != syscall.EPERM && err != syscall.EACCES {
		return err
	}
	fd, openErr := sys.Openat(dir, name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if openErr == syscall.EACCES {
		// Ours but not readable: rm -rf fails here too, but as nobody sees this name any more we may help ourselves.
		if held, e := sys.Openat(dir, name, sys.OPath|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0); e == nil {
			sys.ChmodFD(held, 0o700)
			syscall.Close(held)
		}
		fd, openErr = sys.Openat(dir, name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	}
	if openErr != nil {
		return err
	}
	err = emptyDir(fd)
	syscall.Close(fd)
	if err != nil {
		return err
	}
	return sys.Unlinkat(dir, name, sys.AtRemovedir)
}

// emptyDir removes what a directory holds.
func emptyDir(fd int) error {
	names, err := listNames(fd)
	if err != nil {
		return err
	}
	writable := false
	for _, name := range names {
		err := removeTree(fd, name)
		if err == syscall.EACCES && !writable {
			writable = true
			syscall.Fchmod(fd, 0o700)
			err = removeTree(fd, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// listNames returns the names in a directory. They are collected first: removing while reading may skip some.
func listNames(fd int) ([]string, error) {
	var names []string
	syscall.Seek(fd, 0, 0)
	err := sys.Dirents(fd, make([]byte, 8192), func(name []byte, _ byte) error {
		names = append(names, string(name))
		return nil
	})
	return names, err
}

// writeFile writes a small file whole: under another name, then renamed.
func writeFile(dir int, name string, content []byte) error {
	temporary := name + ".new"
	fd, err := sys.Openat(dir, temporary, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = sys.WriteAll(fd, content)
	syscall.Close(fd)
	if err == nil {
		err = sys.Renameat2(dir, temporary, dir, name, 0)
	}
	if err != nil {
		sys.Unlinkat(dir, temporary, 0)
	}
	return err
}

// readFile reads a small file; nil when there is none.
func readFile(dir int, name string) ([]byte, error) {
	fd, err := sys.Openat(dir, name, syscall.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := sys.Fstat(fd, &st); err != nil {
		return nil, err
	}
	content := make([]byte, st.Size)
	n, err := sys.PreadFull(fd, content, 0)
	return content[:n], err
}
