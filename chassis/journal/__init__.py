"""Reversibility: what was there before each change, written down before the change."""

from chassis.journal.journal import Journal, Session, TaskStatus, UndoReport, Usage
from chassis.journal.targets import consent_within

__all__ = ["Journal", "Session", "TaskStatus", "UndoReport", "Usage", "consent_within"]
