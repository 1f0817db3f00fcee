"""Finds where a model's prompts can be pruned, and by whose attention."""
