"""Results for display: HTML pages with figures, animations, and tables of text."""
