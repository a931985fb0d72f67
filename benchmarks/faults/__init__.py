"""Real multi-task runs with one fault planted in each: what they are, how they are recorded and judged."""
