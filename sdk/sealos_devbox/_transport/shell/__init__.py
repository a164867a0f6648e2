"""The way to a box into which nothing may be carried: its shell and the usual tools."""
