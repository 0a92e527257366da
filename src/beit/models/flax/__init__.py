"""The networks in Flax, each file the twin of the one in `models/torch`."""
