"""A program from outside as a governed agent of a Station Calyx."""

from calyx_agent.agent import Agent
from calyx_agent.client import AgentError, AsyncClient, Client
from calyx_agent.task import Stopped, Task
from calyx_agent.work import Change, Plan, Result, file_claim

__all__ = ["Agent", "AgentError", "AsyncClient", "Change", "Client", "Plan", "Result", "Stopped", "Task", "file_claim"]
