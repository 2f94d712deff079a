"""What a user's model is to the system: its contract, its metrics, its trained form."""
