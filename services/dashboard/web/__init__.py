"""The page and its JSON API over HTTP: FastAPI at the edge of the same cores that gRPC serves."""
