"""The control plane's client: requests, the lineages of its API, and what they have in common."""
