"""The six services. They never import each other; they meet over gRPC and the task exchange."""
