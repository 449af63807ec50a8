"""The nightly catalogue on a cluster of which one part after the other is killed: is all landed, and how soon?

Airflow with the CeleryExecutor, PostgreSQL and Valkey, two workers and two triggerers, on one machine. While a night of
2,000 products runs, SIGKILL ends a worker, a triggerer, the broker, the database and the scheduler in turn, each with
every process that it started; after some seconds it is started again, as an operator's process manager does. In the end
the promises of ``benchmarks.chaos`` are judged, what the vendors have charged against the ledger, and two more: every
product has landed, and the night ended within two minutes of the last recovery.

===============  ========================================================================
``component``    one part: started, killed, started again
``cluster``      all parts, and the settings that matter
``dags``         the night, as a shop would write it
``watch``        the run, seen from outside
``kills``        a part is killed while it holds something, and comes back
``night``        the whole: shop, night, verdict
``recovery``     the table and its promises, as pure functions
===============  ========================================================================

``make cluster``, or ``.venv-cluster/bin/python -m benchmarks.cluster 400 --kill worker broker``.
"""
