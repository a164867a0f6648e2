"""The agent that is in every box: files, processes, sessions, logs (box-agent contract).

Known differences from the real one: paths are confined to the workspace, `/home/devbox/project` is
another name for it, and answers carry its path on this machine; only ports of the box's own
processes are listed.
"""
