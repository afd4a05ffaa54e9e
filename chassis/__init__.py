"""Cross-cutting code that every service stands on. It knows no service."""
