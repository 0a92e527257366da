"""The PyTorch side of inference."""
