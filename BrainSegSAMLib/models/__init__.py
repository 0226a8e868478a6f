"""Trained models on disk: the model folder, the catalogue of known models, and their download."""
