"""From a segmentation model's scores to label maps: `semantic.py`, with one file per framework for the best class."""
