"""Trains models whose first layers can draft for all of them."""
