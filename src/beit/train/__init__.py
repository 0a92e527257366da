"""Training runs: settings, loop, checkpoints; pre-training, fine-tuning, segmentation, tokenizers."""
