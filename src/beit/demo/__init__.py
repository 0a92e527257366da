"""The demonstrations on the embedded images: classification and segmentation."""
