"""Trains the demo models from nothing but the pack's own pictures; see README.md beside this file."""
