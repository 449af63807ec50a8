"""Apache Airflow provider for AI product imagery. This file holds the version and nothing else."""

__version__ = "0.1.0"
