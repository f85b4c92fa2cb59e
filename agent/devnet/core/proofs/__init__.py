"""Challenges, validators and what they lead to: how the coordinator finds out whether results are true."""
