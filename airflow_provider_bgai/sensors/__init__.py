"""Waiting for task IDs as a task of its own."""
