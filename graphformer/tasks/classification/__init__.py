"""What `graphformer nodes` is made of."""
