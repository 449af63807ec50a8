"""A nightly run, without Airflow in it: buying once, landing, recording."""
