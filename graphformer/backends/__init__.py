"""The ways to compute one equation, and the planner that chooses among them."""
