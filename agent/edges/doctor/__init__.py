"""Reads what `core.judgements` judges."""
