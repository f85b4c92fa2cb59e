"""The Sandbox port by an engine of OCI containers: podman or docker."""
