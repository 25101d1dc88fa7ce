"""Supervised fine-tuning of each role, and MAPoRL for the team."""
