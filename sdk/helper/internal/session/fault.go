package session

import "syscall"

// Fault is an error with a text for the client's log. Plain syscall.Errno values travel as themselves.
type Fault struct {
	Errno syscall.Errno
	Text  string
}

func (f *Fault) Error() string { return f.Text }

// Fail returns a Fault.
func Fail(errno syscall.Errno, text string) error { return &Fault{errno, text} }

// Invalid is the answer to malformed arguments.
func Invalid(text string) error { return Fail(syscall.EINVAL, text) }

// Errno is the number that an error travels as. Errors that carry none are EIO.
func Errno(err error) syscall.Errno {
	switch e := err.(type) {
	case nil:
		return 0
	case syscall.Errno:
		return e
	case *Fault:
		return e.Errno
	}
	return syscall.EIO
}
