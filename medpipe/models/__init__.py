"""Where weights come from, how text becomes tokens, and how several adapters share one base."""
