"""What the tests on real mounts and the benchmark share."""
