"""Who prepares the batches: processes of our own or the workers of PyTorch."""
