"""What training asks of PyTorch."""
