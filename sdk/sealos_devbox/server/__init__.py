"""The embedded engine: a Devbox service over boxes that are local directories.

One process that speaks what the service in production speaks, its quirks included, so that a client
of one works with the other: the control plane (v1 and v2alpha, or the flat routes of the older
lineage), the agent that is in every box, and of the cluster's API what a client with a kubeconfig
needs (`pods/exec` among it). `app.create_app` makes the ASGI application; `app` says which address
is what.

What is real: files (a box's workspace is a directory), processes (commands run on this machine,
as this user, in the workspace), what they use, the times of stopping and starting. What is not:
images, networks, isolation. Paths given to the agent are confined to the box; a command is not.
"""
