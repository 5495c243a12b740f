"""gstack: a Google Compute Engine API in front of Apache CloudStack."""

__version__ = "2.0.0"
