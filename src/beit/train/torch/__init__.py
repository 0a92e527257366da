"""Training in PyTorch: `beit.train.framework` says what it offers."""
