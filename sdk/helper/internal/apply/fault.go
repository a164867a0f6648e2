package apply

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// DEVBOX_HELPER_FAULT is for tests: "exit:POINT:N" kills the process, as kill -9 would, when it passes a named point
// for the N-th time; "no-openat2" does without that system call. The points, in the order of an operation's life:
//
//	staged     all contents have arrived, the batch is not accepted
//	accepted   the manifest is in place
//	before     before an operation's first system call
//	leased     the lease of a lock is written down, the lock is not there
//	linked     the object that is going to be replaced has its private name
//	changed    after the system call that publishes or displaces
//	verified   before the outcome is logged
//	logged     after it was logged; displaced objects are still there
//	finished   all outcomes are logged, the batch is not marked complete
//	complete   it is
//	reply      before the answer is sent
var faultPoint, faultAt = parseFault(os.Getenv("DEVBOX_HELPER_FAULT"))
var faultPasses atomic.Int64

func parseFault(s string) (string, int64) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || parts[0] != "exit" {
		return "", 0
	}
	n, _ := strconv.ParseInt(parts[2], 10, 64)
	return parts[1], n
}

func pass(point string) {
	if point == faultPoint && faultPasses.Add(1) == faultAt {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it may take a moment to arrive
	}
}
