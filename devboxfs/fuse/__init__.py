"""The only package, besides mount.py, that knows pyfuse3."""
