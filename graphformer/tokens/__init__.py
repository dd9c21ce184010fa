"""Sentences, images, series and graphs as one flat list of tokens."""
