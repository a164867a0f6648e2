// Package snapshot has the operation of the same name: a whole tree with its attributes, breadth first.
package snapshot

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/files"
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/prune"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/sys"
)

// pieceTarget: a directory larger than this is sent in pieces.
const pieceTarget = 64 << 10

// Handler returns the operation.
func Handler(e *files.Env) session.Handler {
	return func(r *session.Request) ([]byte, error) {
		a := files.Take(r)
		path, depth, leave := a.Path(), a.Int(0), a.Prune()
		if a.Err != nil {
			return nil, a.Err
		}
		r.Event = e.Event()
		return take(e, r, path, depth, leave)
	}
}

func take(e *files.Env, r *session.Request, path string, maxDepth int64, leave *prune.Set) ([]byte, error) {
	fd, err := e.Root.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, false)
	if err != nil {
		return nil, err
	}
	syscall.Close(fd)
	workers := make([]*worker, min(runtime.GOMAXPROCS(0), 4))
	for i := range workers {
		workers[i] = &worker{env: e, r: r, leave: leave, records: files.NewRecords(r, nil), names: make([]byte, 32768)}
	}
	level := []string{path}
	var directories, entries int64
	for depth := int64(1); len(level) > 0; depth++ {
		deeper := maxDepth == 0 || depth < maxDepth
		if err := runLevel(workers, level, deeper); err != nil {
			return nil, err
		}
		directories += int64(len(level))
		level = level[:0:0]
		for _, w := range workers {
			level = append(level, w.below...)
			entries += w.entries
			w.below, w.entries = nil, 0
		}
	}
	b := msgpack.AppendInt(msgpack.AppendArray(nil, 2), directories)
	return msgpack.AppendInt(b, entries), nil
}

// runLevel reads the directories of one depth. All of it is queued before the next depth begins, so that a directory
// never precedes its parent.
func runLevel(workers []*worker, level []string, deeper bool) error {
	var next atomic.Int64
	run := func(w *worker) {
		for w.err == nil {
			i := int(next.Add(1)) - 1
			if i >= len(level) {
				w.err = w.records.Flush()
				return
			}
			if w.r.Cancelled() {
				w.err = syscall.ECANCELED
				return
			}
			w.err = w.directory(level[i], deeper)
		}
	}
	var group sync.WaitGroup
	for i := 1; i < len(workers) && i < len(level); i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			run(workers[i])
		}()
	}
	run(workers[0])
	group.Wait()
	for _, w := range workers {
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

type worker struct {
	env     *files.Env
	r       *session.Request
	leave   *prune.Set // directories that are named, not read
	records *files.Records
	names   []byte // getdents buffer
	piece   []byte // encoded entries of the current directory
	count   int
	below   []string
	entries int64
	err     error
}

// directory reads one directory. Errors of the directory itself are reported in its record.
func (w *worker) directory(path string, deeper bool) error {
	event := w.env.Event()
	fd, err := w.env.Root.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, false)
	if err != nil {
		return w.failed(event, path, err)
	}
	defer syscall.Close(fd)
	w.env.WatchDir(path, fd)
	event = w.env.Event()
	now := time.Now().UnixNano()
	w.piece, w.count = w.piece[:0], 0
	var sendErr error
	err = sys.Dirents(fd, w.names, func(name []byte, _ byte) error {
		if w.env.Root.HiddenName(path, name) {
			return nil
		}
		var st syscall.Stat_t
		// The name is NUL-terminated in the buffer.
		if sys.FstatatRaw(fd, &name[0], &st, sys.AtSymlinkNofollow) != nil {
			return nil // vanished meanwhile
		}
		attr := root.FromStat(&st)
		if attr.IsLink() || attr.Fresh(now) {
			full, err := root.Complete(fd, string(name), &st)
			if err != nil {
				return nil
			}
			attr = *full
		}
		if deeper && attr.IsDir() && !w.leave.Prunes(path, string(name)) {
			w.below = append(w.below, root.Join(path, string(name)))
		}
		w.piece = attr.Append(msgpack.AppendBin(msgpack.AppendArray(w.piece, 2), name))
		w.count++
		w.entries++
		if len(w.piece) >= pieceTarget {
			sendErr = w.send(event, path, false)
			event = w.env.Event()
			now = time.Now().UnixNano()
			return sendErr
		}
		return nil
	})
	if sendErr != nil {
		return sendErr
	}
	if err != nil {
		return w.failed(event, path, err)
	}
	return w.send(event, path, true)
}

func (w *worker) send(event uint64, path string, last bool) error {
	if w.records.Len()+len(w.piece) > files.RecordTarget {
		if err := w.records.Flush(); err != nil {
			return err
		}
	}
	b := msgpack.AppendUint(msgpack.AppendArray(w.records.Value(), 4), event)
	b = msgpack.AppendBool(msgpack.AppendBinString(b, path), last)
	b = append(msgpack.AppendArray(b, w.count), w.piece...)
	w.piece, w.count = w.piece[:0], 0
	return w.records.Done(b)
}

func (w *worker) failed(event uint64, path string, err error) error {
	b := msgpack.AppendUint(msgpack.AppendArray(w.records.Value(), 5), event)
	b = msgpack.AppendNil(msgpack.AppendBool(msgpack.AppendBinString(b, path), true))
	return w.records.Done(msgpack.AppendInt(b, int64(session.Errno(err))))
}
