"""Only what changed: what a run has to do, and what that costs."""
