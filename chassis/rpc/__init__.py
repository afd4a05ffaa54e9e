"""gRPC as the station uses it: one server builder, one client, one table between errors and status."""
