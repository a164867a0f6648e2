package exec

import (
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"
)

// streams are both ends of a command's standard streams. The helper's ends are used through the runtime's poller, so
// that reads and writes can be ended.
type streams struct {
	pty    bool
	child  [3]*os.File
	input  *os.File
	output []*os.File // by substream

	mu     sync.Mutex
	closed bool
}

func openStreams(size []int64) (*streams, error) {
	if size != nil {
		return openPty(size[0], size[1])
	}
	s := &streams{}
	var err error
	pipe := func() (*os.File, *os.File) {
		if err != nil {
			return nil, nil
		}
		var r, w *os.File
		r, w, err = os.Pipe()
		return r, w
	}
	var out, problems *os.File
	s.child[0], s.input = pipe()
	out, s.child[1] = pipe()
	problems, s.child[2] = pipe()
	s.output = []*os.File{out, problems}
	if err != nil {
		s.closeChild()
		s.close()
		return nil, syscall.EMFILE
	}
	return s, nil
}

func ioctl(fd, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// openPty opens a new pseudo-terminal; see pts(4).
func openPty(rows, columns int64) (*streams, error) {
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var number, unlock int32
	if err = ioctl(uintptr(fd), syscall.TIOCSPTLCK, unsafe.Pointer(&unlock)); err == nil {
		err = ioctl(uintptr(fd), syscall.TIOCGPTN, unsafe.Pointer(&number))
	}
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	slave, err := syscall.Open("/dev/pts/"+strconv.Itoa(int(number)), syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	master, end := os.NewFile(uintptr(fd), "ptmx"), os.NewFile(uintptr(slave), "pts")
	s := &streams{pty: true, child: [3]*os.File{end, end, end}, input: master, output: []*os.File{master}}
	s.resize(rows, columns)
	return s, nil
}

type windowSize struct{ rows, columns, x, y uint16 }

func (s *streams) resize(rows, columns int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.pty || s.closed {
		return
	}
	connection, err := s.input.SyscallConn() // Fd would make it blocking
	if err != nil {
		return
	}
	size := windowSize{rows: uint16(rows), columns: uint16(columns)}
	connection.Control(func(fd uintptr) { ioctl(fd, syscall.TIOCSWINSZ, unsafe.Pointer(&size)) })
}

// endInput is the end of the client's DATA. A terminal is told by its end-of-file character.
func (s *streams) endInput() {
	if s.pty {
		s.input.Write([]byte{4})
		return
	}
	s.input.Close()
}

func (s *streams) closeChild() {
	for i, f := range s.child {
		if f != nil && (i == 0 || f != s.child[0]) {
			f.Close()
		}
	}
	s.child = [3]*os.File{}
}

func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.input != nil {
		s.input.Close()
	}
	for _, f := range s.output {
		if f != nil {
			f.Close()
		}
	}
}
