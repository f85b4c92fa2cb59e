"""Engines that replay somebody else's generation: implementations of `ports.Replayer`."""
