"""The Calyx Bridge Overseer: pulses, objectives, tasks, the ladder."""
