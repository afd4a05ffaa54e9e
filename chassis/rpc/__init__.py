"""gRPC as the station uses it: one server builder, one client, one table between errors and status."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
"""The library's C core prints to stderr what we raise and log ourselves; read when grpc is first imported."""
