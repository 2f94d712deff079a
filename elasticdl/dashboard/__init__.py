"""How a job is watched: what is read of it, the page that shows it, and the report for mail."""
