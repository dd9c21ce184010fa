"""What `graphformer translate` is made of."""
