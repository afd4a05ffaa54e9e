"""The Cheetah Agent: reads Bridge Pulses, finds trends, draws them, and remembers what it found."""
