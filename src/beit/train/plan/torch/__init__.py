"""What `beit plan` asks of PyTorch."""
