"""A program from outside as a governed agent of a Station Calyx."""

from calyx_agent.client import AgentError, AsyncClient, Client

__all__ = ["AgentError", "AsyncClient", "Client"]
