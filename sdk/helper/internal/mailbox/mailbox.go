// Package mailbox is a byte stream made of files, for where nothing but whole files can be sent to a process
// (sdk/PROTOCOL.md section 11).
package mailbox

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/sys"
)

const (
	headerSize = 4
	// MaxMessage bounds what one file may hold.
	MaxMessage = 8 << 20
	// ending in the place of a length says that the stream is over.
	ending = 0xffffffff
	// lookAgain: a message may be written by a way that raises no event here.
	lookAgain = 200 * time.Millisecond
)

// Reader reads the messages of a directory in the order of their numbers, which are the names of the files, from 0.
// A message counts once all of it is there, however its file is written; then its file is removed. One that comes a second
// time, because its sender did not learn that it had arrived, is removed unread.
type Reader struct {
	dir   string
	watch int
	next  uint64
	left  []byte
}

// Open makes the directory, if it is not there, and waits for messages in it.
func Open(dir string) (*Reader, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err == nil {
		// In vain where the limit is reached: then every look finds what came since the last one.
		_, _ = syscall.InotifyAddWatch(fd, dir, syscall.IN_MODIFY|syscall.IN_CLOSE_WRITE|syscall.IN_MOVED_TO)
	} else {
		fd = -1
	}
	return &Reader{dir: dir, watch: fd}, nil
}

// Read implements io.Reader. It ends when the sender said so, or when the directory has gone.
func (r *Reader) Read(b []byte) (int, error) {
	for len(r.left) == 0 {
		message, err := r.take()
		if err != nil {
			return 0, err
		}
		if message == nil {
			if err := r.wait(); err != nil {
				return 0, err
			}
			continue
		}
		r.left = message
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Remove removes the directory with what is left in it.
func (r *Reader) Remove() { os.RemoveAll(r.dir) }

// take returns the next message, nil when it is not there or not whole.
func (r *Reader) take() ([]byte, error) {
	path := filepath.Join(r.dir, strconv.FormatUint(r.next, 10))
	content, err := os.ReadFile(path)
	if err != nil || len(content) < headerSize {
		return nil, nil
	}
	size := binary.BigEndian.Uint32(content)
	if size == ending {
		return nil, io.EOF
	}
	if size > MaxMessage {
		return nil, io.ErrUnexpectedEOF
	}
	if len(content) < headerSize+int(size) {
		return nil, nil
	}
	os.Remove(path)
	r.next++
	return content[headerSize : headerSize+int(size)], nil
}

// wait returns when something may have changed.
func (r *Reader) wait() error {
	if r.watch < 0 {
		time.Sleep(lookAgain / 20)
	} else if sys.Poll(r.watch, sys.PollIn, lookAgain.Milliseconds()) {
		var events [4096]byte
		for {
			if n, err := syscall.Read(r.watch, events[:]); n <= 0 || err != nil {
				break
			}
		}
		return nil
	}
	return r.clean()
}

// clean removes messages that came again, and finds out whether the mailbox is still there.
func (r *Reader) clean() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return io.EOF
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && n < r.next {
			os.Remove(filepath.Join(r.dir, e.Name()))
		}
	}
	return nil
}
