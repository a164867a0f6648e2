"""What is decided around a request to the control plane: pure, without clock or socket."""
