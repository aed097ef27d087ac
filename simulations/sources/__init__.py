"""Pictures before there is a run: looking at them, a first configuration, and the cache."""
