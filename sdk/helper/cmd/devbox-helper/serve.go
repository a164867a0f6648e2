package main

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"sealos.io/devbox-helper/internal/apply"
	"sealos.io/devbox-helper/internal/exec"
	"sealos.io/devbox-helper/internal/files"
	"sealos.io/devbox-helper/internal/mailbox"
	"sealos.io/devbox-helper/internal/msgpack"
	"sealos.io/devbox-helper/internal/root"
	"sealos.io/devbox-helper/internal/session"
	"sealos.io/devbox-helper/internal/snapshot"
	"sealos.io/devbox-helper/internal/sys"
	"sealos.io/devbox-helper/internal/watch"
)

// channel is a descriptor used without the runtime's poller, whoever else made it non-blocking.
type channel int

func (c channel) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(c), b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == syscall.EAGAIN:
			sys.Poll(int(c), sys.PollIn, -1)
		case err != syscall.EINTR:
			return 0, err
		}
	}
}

func (c channel) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := syscall.Write(int(c), b[done:])
		if n > 0 {
			done += n
		}
		switch {
		case done == len(b):
			return done, nil
		case err == syscall.EAGAIN:
			sys.Poll(int(c), sys.PollOut, -1)
		case err != nil && err != syscall.EINTR:
			return done, err
		}
	}
}

func serve(o options) int {
	path, err := filepath.Abs(o.root)
	if err != nil {
		fail(err.Error())
	}
	space, err := root.Open(path)
	if err != nil {
		fail(o.root + ": " + err.Error())
	}
	exec.DefaultSignals()
	state, stateErr := apply.OpenState(space, o.state)
	hub := watch.NewHub(space)
	env := &files.Env{Root: space, Event: hub.Event, WatchDir: hub.WatchDir}
	changes := apply.New(space, state, stateErr, hub, hub.Event, hub.Drain, exit)
	env.After = changes.After
	handles := &files.Handles{}
	handlers := map[string]session.Handler{
		"stat": env.Stat, "stat_many": env.StatMany, "list": env.List, "readlink": env.Readlink, "statvfs": env.Statvfs,
		"getxattr": env.Getxattr, "listxattr": env.Listxattr, "read": env.Read, "read_many": env.ReadMany,
		"open": env.Open(handles), "pread": env.Pread(handles), "close": env.Close(handles), "hash": env.Hash,
		"snapshot": snapshot.Handler(env), "apply": changes.Apply, "attach": changes.Attach, "detach": changes.Detach,
		"sync": changes.Sync, "locks": changes.Locks, "watch": hub.Handler,
		"caught_up": hub.CaughtUp,
	}
	runner := &exec.Runner{Space: space}
	handlers["exec"] = runner.Handler
	var in io.Reader = channel(0)
	var out io.Writer = channel(1)
	if o.mailbox != "" {
		box, err := mailbox.Open(o.mailbox)
		if err != nil {
			fail(o.mailbox + ": " + err.Error())
		}
		defer box.Remove()
		in, out = box, mailbox.NewLines(out)
	}
	conn := session.New(session.Config{
		In: in, Out: out, Handlers: handlers,
		Ordered: map[string]func(*session.Request){"apply": changes.Announce},
		Welcome: welcome(space, capabilities(state, space)),
		Pong: func(b []byte) []byte {
			bytes, inodes, flags := files.Free(space.FD)
			b = msgpack.AppendInt(b, time.Now().UnixNano())
			b = msgpack.AppendUint(msgpack.AppendUint(b, bytes), inodes)
			return msgpack.AppendInt(msgpack.AppendInt(b, flags), changes.Durable())
		},
	})
	status := conn.Serve()
	runner.KillAll()
	changes.Finish()
	changes.Keep("/proc/self/exe")
	return status
}

// keepLocks is the process that outlives a helper whose client left locks behind.
func keepLocks(o options) int {
	space, err := root.Open(o.root)
	if err != nil {
		return exitUsage
	}
	state, err := apply.OpenState(space, o.state)
	if err != nil {
		return exitUsage
	}
	apply.KeepLocks(space, state, o.leases)
	return 0
}

func exit(status int) { time.Sleep(50 * time.Millisecond); os.Exit(status) }

// capabilities names what works here (section 3).
func capabilities(state *apply.State, space *root.Root) []string {
	c := []string{"watch", "exec", "prune"}
	var st syscall.Stat_t
	if syscall.Stat("/dev/ptmx", &st) == nil {
		c = append(c, "pty")
	}
	if state != nil {
		c = append(c, "apply", "locks")
		if state.Noreplace {
			c = append(c, "noreplace")
		}
		if state.Exchange {
			c = append(c, "exchange")
		}
	}
	if _, err := sys.Llistxattr(sys.ProcName(space.FD, ".")); err == nil {
		c = append(c, "xattr")
	}
	if space.Openat2 {
		c = append(c, "openat2")
	}
	return c
}

func welcome(space *root.Root, capabilities []string) []byte {
	var b []byte
	pairs := 0
	key := func(name string) {
		pairs++
		b = msgpack.AppendStr(b, name)
	}
	text := func(name, value string) { key(name); b = msgpack.AppendStr(b, clean(value)) }
	number := func(name string, value int64) { key(name); b = msgpack.AppendInt(b, value) }
	number("protocol", session.Protocol)
	text("version", version)
	key("capabilities")
	b = msgpack.AppendArray(b, len(capabilities))
	for _, c := range capabilities {
		b = msgpack.AppendStr(b, c)
	}
	key("root")
	b = msgpack.AppendBinString(b, space.Path)
	number("uid", int64(os.Geteuid()))
	number("gid", int64(os.Getegid()))
	groups, _ := os.Getgroups()
	key("groups")
	b = msgpack.AppendArray(b, len(groups))
	for _, g := range groups {
		b = msgpack.AppendInt(b, int64(g))
	}
	number("umask", int64(umask()))
	host, _ := os.Hostname()
	text("hostname", host)
	number("clock_ns", clock())
	text("boot_id", bootID())
	text("epoch", epoch())
	number("pid", int64(os.Getpid()))
	self, _ := os.Executable()
	key("helper")
	b = msgpack.AppendBinString(b, self)
	number("window", session.Window)
	number("max_requests", session.MaxRequests)
	number("max_payload", 131072)
	key("root_attr")
	if attr, err := space.Stat("", false); err == nil {
		b = attr.Append(b)
	} else {
		b = msgpack.AppendNil(b)
	}
	key("statvfs")
	if with, err := files.AppendStatvfs(b, space.FD); err == nil {
		b = with
	} else {
		b = msgpack.AppendNil(b)
	}
	key("compress")
	b = msgpack.AppendBool(b, true)
	return append(msgpack.AppendMap(nil, pairs), b...)
}

// clock is the box's, in ns. DEVBOX_HELPER_CLOCK_OFFSET, in seconds, is for tests: a clock that is hours off.
func clock() int64 {
	off, _ := strconv.ParseInt(os.Getenv("DEVBOX_HELPER_CLOCK_OFFSET"), 10, 64)
	return time.Now().UnixNano() + off*int64(time.Second)
}
