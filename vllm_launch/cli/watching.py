"""top: the servers' figures, live."""
