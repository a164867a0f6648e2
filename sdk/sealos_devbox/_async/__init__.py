"""The asynchronous API, on anyio: it runs under asyncio and trio."""
