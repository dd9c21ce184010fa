"""Models as settings of the same layers, by domain."""
