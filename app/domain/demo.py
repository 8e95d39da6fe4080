"""The demo user: nobody, whose traders only show what Vyx does."""

from typing import Final
from uuid import UUID

DEMO_USER: Final = UUID("00000000-0000-4000-8000-00000000d3a0")
