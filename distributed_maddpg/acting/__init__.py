"""Acting with trained policies in numpy: inference and exploration, without torch."""
