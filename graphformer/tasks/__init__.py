"""Training by domain, on Lightning."""
