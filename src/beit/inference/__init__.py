"""Answers of trained models: classes, features, label maps."""
