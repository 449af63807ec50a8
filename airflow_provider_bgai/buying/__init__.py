"""Pay once: one wanted picture, its paid calls, the books and the budget. No Airflow."""
