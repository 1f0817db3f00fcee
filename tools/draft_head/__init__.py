"""Trains a draft head (docs/draft_head.md) for a model: `./run train-head`."""
