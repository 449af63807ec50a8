"""Measurements that the README quotes. Each prints a table; run them with `make bench`."""
