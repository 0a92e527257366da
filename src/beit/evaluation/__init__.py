"""Scores of trained models: top-1 and top-5, mIoU, linear probe, k-NN, and the report pages."""
