"""Profiles, ablations, runs, statistics, tables."""
