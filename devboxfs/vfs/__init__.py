"""File-system semantics over a box; trio, no pyfuse3."""
