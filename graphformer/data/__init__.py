"""Readers of public data sets, and the data the package embeds or makes itself."""
