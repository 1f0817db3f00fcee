"""Measures Skim beside other servers of language models: the same model, machine and work."""
