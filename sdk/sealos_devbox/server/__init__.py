"""The embedded engine: a Devbox service over boxes that are local directories.

One process that speaks what the service in production speaks, its quirks included, so that a client
of one works with the other: the control plane (v1 and v2alpha, or the flat routes of the older
lineage), the agent that is in every box, and of the cluster's API what a client with a kubeconfig
needs (`pods/exec` among it). `app.create_app(EngineSettings(...))` makes the ASGI application,
`run.serve` serves it until it is told to stop, `run.serving` for the length of a block; `app` says
which address is what. `devboxfs serve` and `python -m sealos_devbox.server` do the same from a
shell.

What is real: files (a box's workspace is a directory), processes (commands run on this machine, as
this user, in the workspace), what they use, the times of stopping and starting. What is not:
images, networks, isolation. Paths given to the agent are confined to the box; a command is not.

What differs from production, on purpose:

* Every route needs a credential (`EngineSettings.public_routes` lifts that where the service does
  not ask): the engine's token, kept in `<data>/engine/token`, or a kubeconfig with it, such as the
  one that the engine writes to `<data>/engine/kubeconfig` when it is served. A box's agent asks for
  the box's own secret, as there.
* A box's working directory is its path on this machine, in every answer; the agent takes
  `/home/devbox/project` for it too.
* An agent is found by the name in `Host` (`devbox-<uniqueID>-agent.<anything>`), and below
  `/box/<uniqueID>/agent`, where such names do not resolve. The ports of a box are not passed on.
* An autostart command runs once, like the job that it is there, in the workspace.

The TypeScript SDK leaves the port out of an agent's address. It works with an engine at port 80 (or
443, with TLS) of a name below which all names resolve to this machine, such as `localhost` where
systemd-resolved answers.

A client's tests can have faults (`faults.Fault`): in process by `app.state.faults.add`, from
outside by POST to `/_engine/faults`, where the engine was started with `--admin`.
"""
