"""Runs cells: builds their tasks, keeps to their budgets, measures what comes out and leaves records."""
