"""The Docker broker: the only process with the Docker socket, and a short list of what it does with it."""
