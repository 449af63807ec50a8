"""Pixels: bytes in, bytes out. No I/O, no Airflow, no vendor."""
