"""Answers of trained models: classes, features, label maps.

Functions here take images (PIL images, numpy arrays, or an `Images` source) and return arrays and plain values; they print
nothing. `files.py` is the thin layer from paths to images. What a framework computes is in `torch/` and `flax/`.
"""
