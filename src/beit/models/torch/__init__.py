"""The networks in PyTorch. Read `beit.py` first."""
