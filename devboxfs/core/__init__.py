"""Pure rules: no clock, no trio, no file descriptors."""
