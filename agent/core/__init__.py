"""Decides. No await, no I/O, no clock, no randomness, no logging; third-party imports: msgspec only."""
