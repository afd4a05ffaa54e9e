"""SVF 2.0, the task exchange: at-least-once execution, at most one live claim, exactly one ack record."""
