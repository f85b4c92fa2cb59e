"""Inference engines behind one OpenAI-compatible adapter."""
