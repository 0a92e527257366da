"""From a segmentation model's scores to label maps."""
