"""Other task runners under the same load. Each runs in an environment of its own: `.cache/peers`."""
