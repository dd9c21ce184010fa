"""Dense against sparse attention: what is measured, and what the figures show."""
