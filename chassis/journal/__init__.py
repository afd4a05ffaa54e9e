"""Reversibility: what was there before each change, written down before the change."""

from chassis.journal.journal import Journal, Kept, Session, TaskStatus, UndoReport
from chassis.journal.targets import consent_within

__all__ = ["Journal", "Kept", "Session", "TaskStatus", "UndoReport", "consent_within"]
