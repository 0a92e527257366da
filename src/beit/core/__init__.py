"""What every room uses: errors, atomic files, HTTP, the patch grid, resampling of positions. Loads neither torch nor jax."""
