"""Boxes in a cluster, reached through its API server: pods/exec as a channel to the helper."""
