"""``python -m airflow_provider_bgai.sandbox`` is ``bgai-sandbox``."""

from __future__ import annotations

import sys

from airflow_provider_bgai.sandbox.cli import main

sys.exit(main())
