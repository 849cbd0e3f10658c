"""The store fails (a foreign lock, a full disk, PostgreSQL away): requests go on, budgets hold, nothing leaks."""

import asyncio
import contextlib
import signal
import sqlite3
import time

import openai
import pytest

from gateway.servers import DATABASES, SMALL_COST, gateway_of, on_loop, postgres, restarted, settings
from gateway.test_budgets import ALICE, ASK, budgeted, used
from gateway.test_failures import eventually
from roster.errors import RosterError
from roster.gateway.calls import Call
from roster.gateway.databases import Sqlite
from roster.gateway.errors import ApiError
from roster.gateway.ledger import Ledger
from roster.gateway.store import Entry, Row, Store, StoreAway
from roster.lm.policy import Decision

BOB = "bob-secret-9876543210"


def entry(id, difference=5, prompt=None):
    call = Call(id, "a", None, "small", Decision("small", ""), 5, 1, 1, prompt=prompt)
    return Entry((Row("a", "total", None),), difference, call)


def client_of(client, key):
    return client.with_options(api_key=key)


@contextlib.contextmanager
def foreign_lock(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


def test_another_process_holds_the_lock(start, upstream, tmp_path):
    client, gateway = start(keys=budgeted(1.0))
    gateway.ledger._patience = 0.3
    bob = client_of(client, BOB)
    with foreign_lock(tmp_path / "gateway.db"):
        calls = [bob.chat.completions.create(model="auto", messages=ASK)]
        begun = time.monotonic()
        calls += [bob.chat.completions.create(model="auto", messages=ASK) for _ in range(5)]
        calls.append(next(iter([*bob.chat.completions.create(model="auto", messages=ASK, stream=True)])))
        assert time.monotonic() - begun < 2.0, "once the store is known to be away nobody waits for it"
        asked = len(upstream.seen)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="auto", messages=ASK)
        assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")
        assert "retry-after" in caught.value.response.headers
        assert len(upstream.seen) == asked, "refused before a model is asked"
        assert "roster_store_away 1.0" in gateway.scrape().decode()
    assert eventually(lambda: not gateway.ledger.away)
    assert all(on_loop(gateway.store.call(call.id)).outcome == "answered" for call in calls)
    assert used_by_bob(gateway) == round(7 * SMALL_COST * 1e9)
    assert client.chat.completions.create(model="small", messages=ASK).model == "small"
    assert used(gateway) == round(SMALL_COST * 1e9)


def used_by_bob(gateway):
    account = gateway.keyring.caller(f"Bearer {BOB}").accounts[0]
    return on_loop(gateway.store.used("bob", account.period_now()))


def test_a_full_disk_at_the_moment_of_payment_leaks_no_reservation(start, upstream):
    def fills(body, headers):
        gateway.store._thread.submit(set_pages, gateway.store, None).result()
        return "answers"

    client, gateway = start(keys=budgeted(1.0), log_prompts=True)
    upstream.does["secret-small"] = fills
    long = [{"role": "user", "content": "x" * 20_000}]
    answer = client.chat.completions.create(model="small", messages=long, max_tokens=100)
    assert answer.model == "small"
    assert used(gateway) > round(SMALL_COST * 1e9), "the reservation stands while the store is full"
    with pytest.raises(openai.InternalServerError, match="store"):
        client.chat.completions.create(model="small", messages=ASK)
    gateway.store._thread.submit(set_pages, gateway.store, 2**30).result()
    assert eventually(lambda: not gateway.ledger.away)
    assert used(gateway) == round(SMALL_COST * 1e9)
    assert on_loop(gateway.store.call(answer.id)).prompt == "x" * 20_000


def set_pages(store, most):
    """What a full disk does: SQLite may take no further page."""
    most = most or store._database.run("PRAGMA page_count").fetchone()[0]
    store._database.run(f"PRAGMA max_page_count = {most}")


@pytest.mark.skipif("postgresql" not in DATABASES, reason="needs PostgreSQL")
def test_postgresql_goes_away_and_comes_back(upstream, tmp_path):
    with postgres() as (url, server):
        for _ in range(200):
            with contextlib.suppress(RosterError):
                Store(url).close()
                break
        with (
            gateway_of(settings(upstream.url, store=url, keys=budgeted(1.0)), tmp_path) as (at, gateway),
            contextlib.closing(openai.OpenAI(base_url=f"{at}/v1", api_key=ALICE, max_retries=0)) as client,
        ):
            bob = client_of(client, BOB)
            first = client.chat.completions.create(model="small", messages=ASK)
            server.send_signal(signal.SIGINT)  # does not wait for clients
            server.wait(20)
            calls = [bob.chat.completions.create(model="small", messages=ASK) for _ in range(3)]
            with pytest.raises(openai.InternalServerError, match="store"):
                client.chat.completions.create(model="small", messages=ASK)
            assert "secret" not in gateway.scrape().decode()
            with restarted(server):
                assert eventually(lambda: not gateway.ledger.away)
                for call in (first, *calls):
                    assert on_loop(gateway.store.call(call.id)) is not None
                assert used_by_bob(gateway) == 3 * used(gateway) == round(3 * SMALL_COST * 1e9)


class Flaky:
    """A store that fails or dawdles, and counts."""

    def __init__(self):
        self.fails, self.delay, self.spent, self.ids = True, 0.0, 0, []

    async def reserve(self, rows, amount):
        await asyncio.sleep(self.delay)
        self.spent += amount
        return True

    async def settle(self, entries):
        if self.fails:
            raise StoreAway("store: away")
        for each in entries:
            self.spent += each.difference
            self.ids += [] if each.call is None else [each.call.id]

    async def ping(self):
        await self.settle([])


def test_what_waits_is_bounded_and_money_is_never_thrown_away():
    store = Flaky()

    async def use():
        ledger = Ledger(store, capacity=20 * entry("x").size)
        for n in range(100):
            await ledger.settle(entry(str(n)))
        assert ledger.waiting == 20
        assert ledger.dropped == 80
        await ledger.flush()
        assert (ledger.away, ledger.waiting) == (True, 20)
        store.fails = False
        await ledger.flush()
        assert (ledger.away, ledger.waiting) == (False, 0)
        big = entry("big", prompt="x" * 10_000_000)
        store.fails = ledger.away = True
        await ledger.settle(big)
        assert ledger.waiting == 0, "one that is larger than everything does not wait either"
        store.fails = False
        await ledger.flush()

    asyncio.run(use())
    assert store.ids == [str(n) for n in range(80, 100)], "the newest, in order"
    assert store.spent == 101 * 5


def test_a_reservation_that_comes_late_is_given_back():
    store = Flaky()
    store.fails, store.delay = False, 0.3

    async def use():
        ledger = Ledger(store, 10_000, patience=0.05)
        with pytest.raises(ApiError):
            await ledger.reserve([Row("a", "total", 100)], 60)
        ledger.away = False
        gone = asyncio.create_task(ledger.reserve([Row("a", "total", 100)], 7))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.5)
        assert store.spent == 67
        await ledger.flush()
        assert store.spent == 0

    asyncio.run(use())


def test_an_entry_counts_once_however_often_it_is_written(tmp_path):
    store = Store("sqlite:///store.db", tmp_path)

    async def use():
        await store.settle([entry("one"), entry("two")])
        await store.settle([entry("two"), entry("three")])
        assert await store.used("a", "total") == 15

    asyncio.run(use())
    store.close()


def test_what_was_written_before_does_not_keep_back_what_comes_with_it(tmp_path):
    store = Store("sqlite:///store.db", tmp_path)

    async def use():
        await store.settle([entry("one")])
        await store.settle([entry("one"), entry("two")])
        assert await store.used("a", "total") == 10
        assert await store.call("two") is not None

    asyncio.run(use())
    store.close()


def test_a_database_that_does_not_come_back_is_away(tmp_path):
    class Gone(Exception):
        """What a driver raises when its connection is lost."""

    store = Store("sqlite:///store.db", tmp_path)
    sqlite = store._database
    sqlite.lost = (Gone,)
    opened, asked = [], []

    def opens():
        opened.append(1)
        if len(opened) == 1:
            raise RosterError("nobody there")
        return sqlite

    def work(database):
        asked.append(1)
        if len(asked) < 3:
            raise Gone
        return 7

    store._open = opens

    async def use():
        with pytest.raises(StoreAway, match="nobody there"):
            await store.do(work)
        assert len(asked) == 1

    asyncio.run(use())
    store.close()


def test_a_commit_that_fails_does_not_lock_the_store_for_ever(tmp_path):
    database = Sqlite(tmp_path / "store.db")
    database.run("PRAGMA foreign_keys = ON")
    database.run("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    database.run("CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.run("INSERT INTO child VALUES (7)")  # is noticed at COMMIT
    with database.transaction():
        assert database.run("SELECT count(*) FROM child").fetchone() == (0,)
    database.close()


def test_an_older_store_is_brought_up_to_date(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as old:
        old.execute(
            "CREATE TABLE calls (id TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, name TEXT NOT NULL, policy TEXT, "
            "model TEXT NOT NULL, decision TEXT NOT NULL, cost BIGINT NOT NULL, prompt_tokens BIGINT, "
            "completion_tokens BIGINT, outcome TEXT NOT NULL, prompt TEXT)"
        )
        old.execute(
            "INSERT INTO calls VALUES ('old', 1.0, 'a', NULL, 'm', ?, 1, 1, 1, 'x', '')",
            ('{"model": "m", "reason": ""}',),
        )
        old.commit()
    store = Store("sqlite:///store.db", tmp_path)
    assert asyncio.run(store.call("old")).model == "m"
    asyncio.run(store.settle([entry("new")]))
    assert asyncio.run(store.call("new")).name == "a"
    asyncio.run(store.prune(keep_days=1))
    assert asyncio.run(store.call("old")) is None
    store.close()


def test_old_feedback_is_forgotten_and_new_is_kept(tmp_path):
    store = Store("sqlite:///store.db", tmp_path)

    async def count():
        return await store.do(lambda database: database.run("SELECT count(*) FROM feedback").fetchone()[0])

    async def use():
        await store.add_feedback("old", 0.5, None, None)
        age = time.time() - 3 * 86_400
        await store.do(lambda database: database.run("UPDATE feedback SET at = ?", age))
        await store.add_feedback("new", 0.5, None, None)
        await store.prune(keep_days=4)
        assert await count() == 2
        await store.prune(keep_days=2)
        assert await count() == 1
        await store.add_feedback("old", 0.5, None, None)  # forgotten, so it can be scored again

    asyncio.run(use())
    store.close()
