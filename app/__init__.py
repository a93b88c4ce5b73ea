"""Ostiary: one governed gateway in front of your own models and your own data."""

__version__ = "0.1.0"
