"""Append-only files of records: written in order, flushed in groups, deleted whole."""
