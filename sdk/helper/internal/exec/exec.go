// Package exec runs commands in the box (sdk/PROTOCOL.md section 8).
package exec

import (
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/files"
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/wire"
)

// Runner runs commands and remembers their process groups.
type Runner struct {
	Space *root.Root

	mu     sync.Mutex
	groups map[int]bool
	closed bool
}

// linger is how long output is waited for that background children still hold open.
const linger = time.Second

// command is the arguments of an exec request.
type command struct {
	argv []string
	dir  string
	env  []string
	size []int64 // of the pty: rows, columns; nil: no pty
	term string
}

func (x *Runner) parse(r *session.Request) (command, error) {
	var c command
	argv := r.Args.At(1)
	if argv.Kind != msgpack.Array || len(argv.Items) == 0 {
		return c, session.Invalid("argv is an array of bin, and not empty")
	}
	for _, a := range argv.Items {
		if a.Kind != msgpack.Bin || strings.IndexByte(string(a.Bytes), 0) >= 0 {
			return c, session.Invalid("an argument is a bin without NUL")
		}
		c.argv = append(c.argv, string(a.Bytes))
	}
	c.dir = x.Space.Path
	if cwd := r.Args.At(2); !cwd.IsNil() {
		path, err := files.Path(cwd)
		if err != nil {
			return c, err
		}
		fd, err := x.Space.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, true)
		if err != nil {
			return c, err
		}
		syscall.Close(fd)
		if path != "" {
			c.dir = strings.TrimSuffix(x.Space.Path, "/") + "/" + path
		}
	}
	if err := c.pty(r.Args.At(4)); err != nil {
		return c, err
	}
	return c, c.environment(r.Args.At(3))
}

func (c *command) pty(v msgpack.Value) error {
	if v.IsNil() {
		return nil
	}
	rows, columns, term := v.At(0), v.At(1), v.At(2)
	if rows.Kind != msgpack.Int || columns.Kind != msgpack.Int {
		return session.Invalid("pty is nil or [rows, columns, term]")
	}
	c.size, c.term = []int64{rows.Int, columns.Int}, string(term.Bytes)
	return nil
}

// environment is the helper's own with the request's added.
func (c *command) environment(v msgpack.Value) error {
	if v.Kind != msgpack.Map && !v.IsNil() {
		return session.Invalid("env is a map of str to str")
	}
	added := map[string]string{"PWD": c.dir}
	if c.term != "" {
		added["TERM"] = c.term
	}
	for i := 0; i+1 < len(v.Items); i += 2 {
		value := v.Items[i+1]
		if value.Kind != msgpack.Str && value.Kind != msgpack.Bin || strings.IndexByte(string(value.Bytes), 0) >= 0 {
			return session.Invalid("env is a map of str to str")
		}
		added[string(v.Items[i].Bytes)] = string(value.Bytes)
	}
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "DEVBOX_HELPER_") {
			continue
		} else if _, replaced := added[name]; !replaced {
			c.env = append(c.env, pair)
		}
	}
	for name, value := range added {
		c.env = append(c.env, name+"="+value)
	}
	return nil
}

// look finds the program as execvp would, with the PATH that the command will have.
func (c *command) look() (string, error) {
	name := c.argv[0]
	if strings.Contains(name, "/") {
		if name[0] != '/' {
			name = c.dir + "/" + name
		}
		return name, executable(name)
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, pair := range c.env {
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			path = value
		}
	}
	problem := error(syscall.ENOENT)
	for _, dir := range strings.Split(path, ":") {
		if dir == "" || dir[0] != '/' {
			dir = c.dir + "/" + dir
		}
		full := dir + "/" + name
		switch err := executable(full); err {
		case nil:
			return full, nil
		case syscall.EACCES:
			problem = err
		}
	}
	return "", problem
}

func executable(path string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return syscall.EACCES
	}
	const xOK = 1
	return syscall.Access(path, xOK)
}

// Handler is `exec`.
func (x *Runner) Handler(r *session.Request) ([]byte, error) {
	c, err := x.parse(r)
	if err != nil {
		return nil, err
	}
	program, err := c.look()
	if err != nil {
		return nil, session.Fail(session.Errno(err), c.argv[0]+": "+err.Error())
	}
	io, err := openStreams(c.size)
	if err != nil {
		return nil, err
	}
	defer io.close()
	process, err := x.start(program, &c, io)
	if err != nil {
		return nil, err
	}
	defer x.forget(process.Pid)
	return x.attend(r, process, io)
}

func (x *Runner) start(program string, c *command, s *streams) (*os.Process, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, syscall.ECANCELED
	}
	attr := &os.ProcAttr{Dir: c.dir, Env: c.env, Files: s.child[:], Sys: &syscall.SysProcAttr{Setpgid: true}}
	if s.pty {
		// A session of its own, with the pty as its terminal; that makes a process group as well.
		attr.Sys = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	}
	process, err := os.StartProcess(program, c.argv, attr)
	s.closeChild()
	if err != nil {
		if e, ok := err.(*os.PathError); ok {
			err = e.Err
		}
		return nil, err
	}
	if x.groups == nil {
		x.groups = map[int]bool{}
	}
	x.groups[process.Pid] = true
	return process, nil
}

func (x *Runner) forget(pid int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.groups, pid)
}

// KillAll ends every command, and lets none begin.
func (x *Runner) KillAll() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	for pid := range x.groups {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// signal sends a signal to a process group that has not been waited for.
func (x *Runner) signal(pid int, number syscall.Signal) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.groups[pid] {
		syscall.Kill(-pid, number)
	}
}

// attend moves the streams until the process has ended and its output has been sent.
func (x *Runner) attend(r *session.Request, process *os.Process, s *streams) ([]byte, error) {
	r.OnControl(func(v msgpack.Value) {
		switch string(v.At(0).Bytes) {
		case "signal":
			if n := v.At(1).Int; n > 0 && n < 65 {
				x.signal(process.Pid, syscall.Signal(n))
			}
		case "resize":
			s.resize(v.At(1).Int, v.At(2).Int)
		}
	})
	ended := make(chan struct{})
	go func() {
		select {
		case <-r.Done():
			x.signal(process.Pid, syscall.SIGKILL)
		case <-ended:
		}
	}()
	go feed(r, s)
	var output sync.WaitGroup
	for sub, file := range s.output {
		output.Add(1)
		go func() {
			defer output.Done()
			drain(r, byte(sub), file)
		}()
	}
	state, err := process.Wait()
	close(ended)
	if r.Cancelled() {
		// The group may outlive its leader.
		x.signal(process.Pid, syscall.SIGKILL)
	}
	s.input.SetWriteDeadline(time.Unix(1, 0))
	over := make(chan struct{})
	go func() {
		output.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-r.Done():
	case <-time.After(linger):
		// Reading ends; what has been read is still sent, however long the client takes.
	}
	for _, file := range s.output {
		file.SetReadDeadline(time.Unix(1, 0))
	}
	output.Wait()
	if r.Cancelled() {
		return nil, syscall.ECANCELED
	}
	if err != nil {
		return nil, syscall.EIO
	}
	return result(state.Sys().(syscall.WaitStatus)), nil
}

func result(status syscall.WaitStatus) []byte {
	b := msgpack.AppendArray(nil, 2)
	if status.Signaled() {
		return msgpack.AppendInt(msgpack.AppendNil(b), int64(status.Signal()))
	}
	return msgpack.AppendNil(msgpack.AppendInt(b, int64(status.ExitStatus())))
}

// feed writes the client's DATA to the command. A command that does not read holds up nobody but itself.
func feed(r *session.Request, s *streams) {
	for {
		b, err := r.Receive()
		if err == io.EOF {
			s.endInput()
			return
		}
		if err != nil {
			return
		}
		if _, err := s.input.Write(b); err != nil {
			// The command has closed its input or ended: what else comes is read and dropped.
			for err == nil || err != io.EOF {
				if _, err = r.Receive(); err == syscall.ECANCELED {
					return
				}
			}
			return
		}
	}
}

// drain sends a stream's output.
func drain(r *session.Request, sub byte, file *os.File) {
	for {
		b := wire.Buffer()
		n, err := file.Read(b[:65536])
		if n > 0 {
			piece := b[:n]
			if n < 32768 { // such pieces are copied when they are sent, and their buffer would not come back
				piece = append([]byte(nil), piece...)
			}
			if r.Raw(sub, piece) != nil {
				return
			}
		}
		if err != nil {
			return // end of file; EIO of a pty whose last user has gone; the deadline
		}
	}
}

// DefaultSignals makes what this process was told to ignore (a shell's background jobs ignore SIGINT) default again in commands: a
// signal that is caught is reset by execve, one that is ignored stays so, and a shell cannot even trap it then.
func DefaultSignals() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s) // never read: here it stays without effect
		}
	}
}
