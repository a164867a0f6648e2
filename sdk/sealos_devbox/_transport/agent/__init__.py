"""The way to a box through the HTTP server in it, the agent."""
