"""Benchmarks, intervals, leaderboard, plots and the report."""
