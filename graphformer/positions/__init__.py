"""Where a token stands, as features to add to or join with its values."""
