"""Vyx: the service."""

VERSION = "0.1.0"  # the only place; the wheel and the OpenAPI document read it here
