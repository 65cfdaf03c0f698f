"""How the embedded foundation models were made, and the probe that says what they are worth."""
