"""The guardian: probes every service from outside, restarts what fails, and says why."""
