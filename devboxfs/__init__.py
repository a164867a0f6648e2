"""Mount a Sealos Devbox as a local directory."""
