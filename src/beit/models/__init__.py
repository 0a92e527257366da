"""The networks: `torch/` and `flax/` are twins with the same file names; what both share lies beside them."""
