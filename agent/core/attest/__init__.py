"""Is it a GPU: what its own facts say, and the matrix challenge that only a GPU answers in time."""
