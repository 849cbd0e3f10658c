"""roster: routed experts. Many experts on one job; a router decides who is on duty, and with what weight."""

__version__ = "0.1.0"
