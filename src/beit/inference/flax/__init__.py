"""The Flax side of inference."""
