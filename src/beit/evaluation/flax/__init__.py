"""The Flax side of evaluation."""
