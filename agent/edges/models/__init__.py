"""Model files, their manifests and digests."""
