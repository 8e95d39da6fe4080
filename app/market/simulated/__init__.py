"""
The simulated exchange: Binance's spot market-data interface on localhost, at any speed.

It speaks the same REST and stream wire format as the real one, limits and error bodies included, so the one client
talks to both. **It is a pure function of a source of candles and a clock**: a process that takes the place of a dead
one, started with the same arguments, serves the same market at the same market time.

``source`` real candles or generated ones · ``clock`` market time · ``rest`` answers · ``streams`` pushes · ``faults``
what goes wrong on demand · ``server`` the process's HTTP side. ``python -m app.market.simulated --help``.
"""

from app.market.simulated.clock import Clock, ManualClock, MarketClock
from app.market.simulated.faults import Faults, Hole, Impossible, Revised
from app.market.simulated.generator import GeneratedSource
from app.market.simulated.server import SimulatedExchange
from app.market.simulated.source import DumpSource, Source

__all__ = [
    "Clock",
    "DumpSource",
    "Faults",
    "GeneratedSource",
    "Hole",
    "Impossible",
    "ManualClock",
    "MarketClock",
    "Revised",
    "SimulatedExchange",
    "Source",
]
