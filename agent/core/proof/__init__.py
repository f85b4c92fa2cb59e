"""Proof of sampling: transcripts, commitments and their offline verification."""
