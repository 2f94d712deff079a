"""Old import paths; they map to where things are now and hold nothing themselves."""
