"""Where instances run: behind one small interface, local processes or (later) pods."""
