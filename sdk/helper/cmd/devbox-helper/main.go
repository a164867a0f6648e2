// Command devbox-helper serves a workspace directory over its standard input and output (sdk/PROTOCOL.md).
package main

import (
	"os"
	"runtime/debug"

	"sealos.io/devbox-helper/internal/user"
)

var version = "0.1.0"

const (
	exitUsage = 2
	usage     = "usage: devbox-helper serve --root DIR [--state DIR] [--user NAME|UID] [--mailbox DIR] | --version"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		os.Stdout.WriteString("devbox-helper " + version + "\n")
		return
	}
	o, problem := parse(os.Args[1:])
	if problem != "" {
		fail(problem)
	}
	// The helper shares a small box: garbage is worth collecting early, and a limit makes that certain.
	debug.SetGCPercent(50)
	if o.user != "" {
		if err := user.Become(o.user); err != nil {
			fail(err.Error())
		}
	}
	if o.leases != "" {
		os.Exit(keepLocks(o))
	}
	os.Exit(serve(o))
}

type options struct{ root, state, user, mailbox, leases string }

func parse(args []string) (options, string) {
	var o options
	if len(args) == 0 {
		return o, usage
	}
	args0 := args[0]
	switch args0 {
	case "serve", "keep-locks":
	default:
		return o, usage
	}
	for args = args[1:]; len(args) > 0; args = args[2:] {
		if len(args) < 2 {
			return o, usage
		}
		switch args[0] {
		case "--root":
			o.root = args[1]
		case "--state":
			o.state = args[1]
		case "--user":
			o.user = args[1]
		case "--leases":
			o.leases = args[1]
		case "--mailbox":
			o.mailbox = args[1]
		default:
			return o, usage
		}
	}
	if o.root == "" || (args0 == "keep-locks") != (o.leases != "") {
		return o, usage
	}
	return o, ""
}

func fail(text string) {
	os.Stderr.WriteString("devbox-helper: " + text + "\n")
	os.Exit(exitUsage)
}
