"""What the demonstrations ask JAX."""
