"""What instances say: one line of JSON for each event, in files that do not grow without end."""
