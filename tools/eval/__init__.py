"""Measures what Skim's savings cost in accuracy, through the daemon's own gRPC API."""
