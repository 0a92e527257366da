"""The dVAE tokenizer: settings, the networks in PyTorch and Flax, and a reader for the files that OpenAI published."""
