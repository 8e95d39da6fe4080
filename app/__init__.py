"""Vyx: the service."""
