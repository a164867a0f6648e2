"""The embedded engine: a Devbox service over boxes that are local directories."""
