"""Memory: what was tried, how it ended, and how to find it again by meaning."""
