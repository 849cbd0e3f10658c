"""What routers did: traces of their choices, statistics over them, and pictures."""
