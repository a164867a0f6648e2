package root

import (
	"strings"
	"syscall"
)

const (
	maxName = 255
	maxPath = 4095
)

// Check refuses what is no path of the protocol (section 1). The empty path is the root.
func Check(path string) error {
	if path == "" {
		return nil
	}
	tooLong := len(path) > maxPath
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." || strings.IndexByte(name, 0) >= 0 {
			return syscall.EINVAL
		}
		tooLong = tooLong || len(name) > maxName
	}
	if tooLong {
		return syscall.ENAMETOOLONG
	}
	return nil
}

// Split divides a path into the directory's path and the name in it.
func Split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// Join is the inverse of Split.
func Join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Within tells whether path is dir or below it.
func Within(path, dir string) bool {
	return dir == "" || path == dir || len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}
