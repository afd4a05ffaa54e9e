"""Reversibility: what was there before each change, written down before the change."""

from chassis.journal.journal import Journal, UndoReport

__all__ = ["Journal", "UndoReport"]
