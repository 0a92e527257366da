"""The PyTorch side of evaluation."""
