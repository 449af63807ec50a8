"""A nightly run to watch: a real S3, the vendors' sandbox, a real Airflow. `python -m demo` runs it."""
