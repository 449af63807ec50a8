"""Whole nightly runs as one line of a DAG."""
