"""What the demonstrations compute with PyTorch."""
