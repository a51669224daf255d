"""Bridges to frameworks; each is alone and optional, and imported by its user only."""
