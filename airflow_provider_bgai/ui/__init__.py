"""What people see of us in Airflow's own pages: links on tasks, and the routes they lead to."""
