"""Waiting for task IDs without a worker slot."""
