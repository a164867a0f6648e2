"""The durable path: journal, spool, flusher, recovery."""
