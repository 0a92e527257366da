"""What training asks of JAX."""
