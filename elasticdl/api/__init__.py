"""What people and programs call: functions, the command line, and what launches a job."""
