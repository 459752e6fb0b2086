"""Trains the atelier's models from nothing but the pack's own pictures; see README.md beside this file."""
