"""A container runtime of its own for tests: Debian's containerd and runc, driven through CRI."""
