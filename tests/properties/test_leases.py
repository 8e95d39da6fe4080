"""
Leases as a state machine on real Postgres: users, machines that live, hang and die, a ledger that grows, and everything in any order.

A machine here does what ``app/screening`` does, with the same statements, from a memory of its leases that is only as fresh as its
last sync. Each screening inserts one signal per trader, so that one set says everything: the (trader, slot) pairs that a machine was
entitled to screen. Coverage and signals must both equal it, whatever happened.

``VYX_PROPERTY=large`` runs a soak.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests import world

LARGE = os.environ.get("VYX_PROPERTY") == "large"
PROFILE = settings(
    max_examples=500 if LARGE else 60,
    stateful_step_count=60 if LARGE else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TRADERS = 2
TTL = timedelta(seconds=10)
MACHINE = st.integers(0, 1)
TRADER = st.integers(0, TRADERS - 1)


@dataclass
class Machine:
    """What a worker process remembers."""

    boot: int
    through: int
    held: dict[UUID, tuple[int, int | None]] = field(
        default_factory=dict
    )  # epoch, and how far it is if behind
    is_silent: bool = False
    is_over: bool = False


class Leases(RuleBasedStateMachine):
    connection: psycopg.Connection

    def __init__(self):
        super().__init__()
        self.execute = self.connection.execute
        self.execute(
            "truncate public.traders, vyx.machines, vyx.slots, vyx.leases, public.trader_state, public.trader_events, vyx.trader_counts restart identity cascade"
        )
        self.execute("select pg_advisory_unlock_all()")
        self.clock: datetime = world.call(
            self.connection, "select pg_postmaster_start_time() + interval '1 hour'"
        )[0]
        self.machines: list[Machine] = []
        self.traders: list[UUID] = []
        self.newest = 0
        self.screened: set[tuple[UUID, int]] = set()
        self.marks: dict[UUID, tuple[int, int, datetime]] = {}

    @initialize()
    def begin(self):
        user = world.add_user(self.connection)
        world.close_slots(self.connection, 0)
        self.traders = [world.add_trader(self.connection, user) for _ in range(TRADERS)]
        for _ in range(2):
            self.register()

    # -- market and users -------------------------------------------------------------------------------------------------

    @rule(which=TRADER, wish=st.sampled_from(["start", "start", "stop"]))
    def a_user_acts(self, which, wish):
        trader = self.traders[which]
        before = world.states(self.connection)[trader]
        if wish == "stop":
            world.stop(self.connection, trader)
            assert world.states(self.connection)[trader] in ("stopped", "stopping")
        elif before == "stopping":
            with pytest.raises(psycopg.Error, match="cannot become starting"):
                world.start(self.connection, trader)
        else:
            world.start(self.connection, trader)
            assert world.states(self.connection)[trader] in ("starting", "running")

    @rule(seconds=st.sampled_from([30, 60, 1000]))
    def errors_are_retried(self, seconds):
        self.clock += timedelta(seconds=seconds)
        self.everyone_beats()
        world.call(self.connection, "select vyx.retry_due_v1(%(now)s)", now=self.clock)

    @rule(trader=TRADER)
    def somebody_frees_a_trader_in_studio(self, trader):
        """Nobody tells its owner."""
        self.execute(
            "update public.trader_state set owner = null where trader_id = %s and state <> 'stopping'",
            (self.traders[trader],),
        )

    # -- machines ---------------------------------------------------------------------------------------------------------

    def living(self, which) -> Machine:
        """One of the two youngest that live, or believe they do."""
        found = [m for m in self.machines if not m.is_over][-2:]
        return found[which % len(found)] if found else self.register()

    def register(self) -> Machine:
        boot = world.register(self.connection, f"m{len(self.machines)}")
        self.machines.append(Machine(boot, self.newest))
        self.everyone_beats()
        return self.machines[-1]

    def everyone_beats(self):
        boots = [m.boot for m in self.machines if not m.is_silent and not m.is_over]
        self.execute(
            "update vyx.machine_heartbeats set heartbeat_at = %s where boot_id = any (%s)",
            (self.clock, boots),
        )

    @rule(which=MACHINE, n=st.integers(1, TRADERS))
    def a_machine_claims(self, which, n):
        """And has not synced when it works next."""
        assert world.claim(self.connection, self.living(which).boot, n) <= n

    @rule(
        which=MACHINE,
        slots=st.integers(0, 2),
        syncs=st.sampled_from([True, True, False]),
        steps=st.integers(1, 6),
        failing=st.sampled_from([-1, -1, -1, *range(TRADERS)]),
    )
    def a_machine_works(self, which, slots, syncs, steps, failing):
        """Without a sync its memory may be stale, and the statements alone have to hold the line."""
        machine = self.living(which)
        for _ in range(slots):
            self.newest += 1
            world.close_slots(self.connection, self.newest)
        if syncs:
            world.claim(self.connection, machine.boot, TRADERS)
            self.sync(machine)
        for _ in range(steps):
            if not machine.is_over:
                self.screen(machine, {self.traders[failing]} if failing >= 0 else set())

    def sync(self, machine):
        rows = self.execute(world.TRADER_STATE["list_owned"], {"boot_id": machine.boot}).fetchall()
        stopping = [row[0] for row in rows if row[3] == "stopping"]
        known = machine.held
        machine.held = {
            trader: known[trader]
            if trader in known and known[trader][0] == epoch
            else (epoch, None if in_step else self.number(after))
            for trader, epoch, _, state, after, in_step in rows
            if state != "stopping"
        }
        if stopping:
            self.fenced(machine, lambda: world.release(self.connection, machine.boot, stopping))
        starting = {row[0]: row[1] for row in rows if row[3] == "starting"}
        self.fenced(machine, lambda: world.mark_running(self.connection, machine.boot, starting))

    def screen(self, machine, failing):
        """One step of app/screening/screener.py: traders that are behind first, then the next slot for all."""
        behind = sorted(
            (b, t) for t, (_, b) in machine.held.items() if b is not None and b <= machine.through
        )
        if behind:
            self.catch_up(machine, *behind[0][::-1])
        elif machine.through < self.newest:
            slot = machine.through + 1
            due = [t for t, (_, b) in machine.held.items() if b is None or b < slot]
            self.fenced(machine, lambda: self.account_for(machine, slot, due, failing & set(due)))

    def account_for(self, machine, slot, due, failing):
        entitled = self.entitled(machine)
        matched = [t for t in due if t not in failing]
        self.insert_signals(machine, slot, matched)
        world.fail(self.connection, machine.boot, {t: machine.held[t][0] for t in failing})
        position = {"boot_id": machine.boot, "slot": world.at(slot), "previous": world.at(machine.through)}
        assert self.execute(world.MACHINES["advance_machine"], position).fetchone() is not None
        moved = [t for t in matched if machine.held[t][1] is not None]
        self.execute(world.TRADER_STATE["put_in_step"], self.of(machine, slot, moved))
        machine.through = slot
        for trader in failing:
            del machine.held[trader]
        for trader in matched:
            machine.held[trader] = (machine.held[trader][0], None)
        self.screened |= {(t, slot) for t in matched if t in entitled}

    def catch_up(self, machine, trader, behind):
        def step():
            entitled = self.entitled(machine)
            if behind < machine.through:
                self.insert_signals(machine, behind + 1, [trader])
                self.execute(world.TRADER_STATE["advance_traders"], self.of(machine, behind + 1, [trader]))
                machine.held[trader] = (machine.held[trader][0], behind + 1)
                if trader in entitled:
                    self.screened.add((trader, behind + 1))
            else:
                self.execute(world.TRADER_STATE["put_in_step"], self.of(machine, machine.through, [trader]))
                machine.held[trader] = (machine.held[trader][0], None)

        self.fenced(machine, step)

    def entitled(self, machine) -> set[UUID]:
        """Traders whose lease the machine really holds, as it remembers it."""
        owned = world.leases(self.connection, machine.boot)
        return {t for t, (epoch, _) in machine.held.items() if owned.get(t) == epoch}

    def fenced(self, machine, work):
        """The transaction of a machine; a buried one is refused, and then it knows."""
        try:
            with self.connection.transaction():
                self.execute(world.MACHINES["fence"], {"boot_id": machine.boot})
                work()
        except psycopg.Error as error:
            if error.sqlstate != "VXFEN":
                raise
            assert self.is_dead(machine)
            machine.is_over = True
        else:
            assert not self.is_dead(machine)

    def insert_signals(self, machine, slot, traders):
        traders = sorted(traders)
        n = len(traders)
        parameters = self.of(machine, slot, traders) | {
            "symbols": ["BTCUSDT"] * n,
            "timeframes": ["1m"] * n,
            "prices": [1.0] * n,
            "shown": ["{}"] * n,
            "plan_hashes": ["x"] * n,
            "forming": [False] * n,
            "cooldowns_s": [None] * n,
        }
        self.execute(world.SIGNALS["insert_signals"], parameters)

    def of(self, machine, slot, traders):
        epochs = [machine.held[t][0] for t in traders]
        return {
            "boot_id": machine.boot,
            "slot": world.at(slot),
            "trader_ids": list(traders),
            "epochs": epochs,
        }

    @rule(which=MACHINE, trader=TRADER, hears=st.booleans())
    def a_machine_releases_one(self, which, trader, hears):
        """A commit whose answer is lost has happened all the same: the machine goes on with what it remembers."""
        machine = self.living(which)
        if self.traders[trader] in machine.held:
            self.fenced(machine, lambda: world.release(self.connection, machine.boot, [self.traders[trader]]))
            if hears:
                machine.held.pop(self.traders[trader], None)

    @rule(which=MACHINE)
    def a_machine_is_drained(self, which):
        machine = self.living(which)
        if not self.is_dead(machine):
            self.execute("update vyx.machines set state = 'draining' where boot_id = %s", (machine.boot,))
            assert world.claim(self.connection, machine.boot) == 0
            self.register()

    @rule(which=MACHINE)
    def a_machine_leaves(self, which):
        machine = self.living(which)
        if self.is_dead(machine):
            with pytest.raises(psycopg.Error, match="is dead"):
                self.execute(world.MACHINES["leave"], {"boot_id": machine.boot})
        else:
            self.execute(world.MACHINES["leave"], {"boot_id": machine.boot})
        machine.is_over = True
        world.settle(self.connection)
        self.register()

    @rule(which=MACHINE, keeps_its_lock=st.booleans())
    def a_machine_falls_silent(self, which, keeps_its_lock):
        """It hangs, or its process is gone. It may still write, as long as nobody has reaped it."""
        machine = self.living(which)
        machine.is_silent = True
        if not keeps_its_lock:
            self.execute("select pg_advisory_unlock_all()")
            for other in self.machines:
                if not other.is_silent and not other.is_over:
                    self.execute(world.MACHINES["lock_machine"], {"boot_id": other.boot})
        self.register()

    @rule(seconds=st.sampled_from([1, 3, 11]))
    def somebody_reaps(self, seconds):
        self.clock += timedelta(seconds=seconds)
        self.everyone_beats()
        healthy = {m.boot for m in self.machines if not m.is_silent}
        for boot, _, _ in world.reap(self.connection, now=self.clock):
            assert boot not in healthy
        world.settle(self.connection)

    @rule()
    def somebody_adds_up_the_kept_numbers(self):
        world.call(self.connection, "select vyx.fold_trader_counts_v1()")

    def is_dead(self, machine) -> bool:
        row = world.call(
            self.connection, "select state = 'dead' from vyx.machines where boot_id = %(b)s", b=machine.boot
        )
        return bool(row[0])

    @staticmethod
    def number(instant: datetime) -> int:
        return int((instant - world.T0) / world.MINUTE)

    # -- what is always true ----------------------------------------------------------------------------------------------

    @invariant()
    def what_is_kept_is_what_there_is(self):
        counted = "select owner, count(*) from public.trader_state where state in ('starting', 'running') group by owner"
        kept = "select owner, sum(traders)::bigint from vyx.trader_counts group by owner having sum(traders) <> 0"
        assert set(self.execute(counted)) == set(self.execute(kept))

    @invariant()
    def only_what_should_run_has_an_owner(self):
        idle = "select count(*) from public.trader_state where state in ('stopped', 'error') and owner is not null"
        assert world.call(self.connection, idle) == (0,)
        stuck = "select count(*) from public.trader_state where state = 'stopping' and not vyx.is_held(owner)"
        assert world.call(self.connection, stuck) == (0,)

    @invariant()
    def coverage_and_signals_are_what_was_screened(self):
        rows = self.execute(
            "select trader_id, after, through from vyx.leases union all"
            " select trader_id, lease_after, vyx.screened_through(s) from public.trader_state s where owner is not null"
        )
        covered = [
            (trader, slot)
            for trader, after, through in rows
            for slot in range(self.number(after) + 1, self.number(through) + 1)
        ]
        assert len(covered) == len(set(covered)), "two leases cover the same slot"
        assert set(covered) == self.screened
        assert {(row.trader_id, self.number(row.triggered_at)) for row in world.signals(self.connection)} == (
            self.screened
        )

    @invariant()
    def nothing_goes_back(self):
        rows = self.execute("select trader_id, version, epoch, resume_after from public.trader_state")
        marks = {trader: tuple(rest) for trader, *rest in rows if rest[2] is not None}
        for trader, before in self.marks.items():
            assert all(new >= old for new, old in zip(marks[trader], before, strict=True)), (
                before,
                marks[trader],
            )
        self.marks = marks

    @invariant()
    def every_change_is_an_event_of_the_table(self):
        steps = "select not exists (select from public.trader_events e where not exists (select from vyx.transitions t where (t.from_state, t.to_state) = (e.from_state, e.to_state)))"
        assert world.call(self.connection, steps) == (True,)
        for trader, state in world.states(self.connection).items():
            chain = world.events(self.connection, trader)
            assert [a for a, _ in chain] == ["stopped", *[b for _, b in chain[:-1]]][: len(chain)]
            assert (chain[-1][1] if chain else "stopped") == state
            assert world.status(self.connection, trader).version == len(chain)


def test_leases_hold_whatever_happens(connection):
    """
    One owner, no dead owner, no write without the lease, coverage without overlap or loss, nothing that goes back.
    """
    machine = type("LeasesHere", (Leases,), {"connection": connection})
    run_state_machine_as_test(machine, settings=PROFILE)
