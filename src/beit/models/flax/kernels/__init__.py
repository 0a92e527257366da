"""How parts of the Flax models are computed where the plain formula is not what JAX does best."""
