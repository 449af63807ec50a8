"""What the tests of the pages share: the DAGs of the tests, run in this process."""

from tests.operators.conftest import dags

__all__ = ["dags"]
