"""The version of the distribution; the build, the helper and the changelog take it from here."""

__version__ = "0.1.0"
