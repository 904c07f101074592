# SPDX-License-Identifier: LGPL-2.1-or-later
"""The order of a transaction's steps, and every way in which one of them can fail: what was opened is closed then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import pytest

from confext_helpers.checks import run as checks
from confext_helpers.errors import ConfextError
from confext_helpers.service import fingerprint
from confext_helpers.service.fingerprint import Fingerprint
from confext_helpers.service.layers import Layer, LayerChange
from confext_helpers.service.notes import LastSwap, Notes
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import limits, refusals, transient, writers
from confext_helpers.stage.process import Stage
from confext_helpers.swap import change, exchange
from confext_helpers.swap.change import Change
from confext_helpers.system.bus import Properties
from confext_helpers.system.manager import ServiceManager
from confext_helpers.transaction import commit, prepare
from confext_helpers.transaction.prepare import Present
from confext_helpers.transaction.steps import Listener, Step

UNIT = "a.service"
LAYER = "/srv/a.raw"
TOLD: Properties = {
    "ExtensionImages": ("a(sba(ss))", [(LAYER, True, [])]),
    "ExtensionDirectories": ("as", []),
    "ExtensionImagePolicy": ("s", "root=signed"),
}
PROPERTIES = ServiceProperties(TOLD)
# In this order, with two mount namespaces, and a check.
ORDER = [
    "fingerprint", "work below", "strangers", "limits", "writers", "picked", "directories", "whole", "begin checks",
    "read checks", "begin stage", "begin", "disconnect", "wait", "disconnect", "begin checks", "warn", "run checks",
    "begin compare", "writers", "releases", "signers", "fingerprint", "find", "may swap", "begin swap", "forget",
    "swap", "swapped", "swap", "swapped", "close", "committed", "held open", "note",
]  # fmt: skip
SWAP = ORDER.index("swap")


class Namespace(NamedTuple):
    """A process, as far as a transaction looks at it."""

    pid: int
    key: str
    namespace: int = -1


class Checks(NamedTuple):
    """What [X-Confext] says."""

    warnings: tuple[str, ...] = ("odd",)
    commands: tuple[str, ...] = ("true",)


def a_fingerprint(**values: Any) -> Fingerprint:
    return Fingerprint({LAYER: "1"}, "2", "3", "4", newest=0, looked=10**18)._replace(**values)


class World(Listener):
    """Everything that a transaction asks, which says what it was asked, and fails once if it is told to.

    Attributes:
        asked: in order.
        fails: the number of the question that is answered by an error.
        error: that one.
        fingerprints: answers to what an `/etc` is made of; the last one again and again.
    """

    namespace = -1

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = -1
        self.error: BaseException = OSError(5, "Input/output error")
        self.fingerprints = [a_fingerprint()]
        self.checks: Checks | None = Checks()
        self.noted: list[LastSwap | None] = []

    def ask(self, what: str, answer: Any = None) -> Any:
        self.asked.append(what)
        if len(self.asked) == self.fails + 1:
            raise self.error
        return answer

    def step(self, what: str, answer: Any = None) -> Callable[..., Any]:
        return lambda *arguments, **words: self.ask(what, answer)

    def of(self, *arguments: object) -> Fingerprint:
        found = self.fingerprints.pop(0) if self.fingerprints[1:] else self.fingerprints[0]
        return cast(Fingerprint, self.ask("fingerprint", found))

    # A manager, a stage that is begun, and one that is there.

    def disconnect(self) -> None:
        self.ask("disconnect")

    def wait(self, manager: object) -> World:
        return cast(World, self.ask("wait", self))

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.ask("close")

    # Notes.

    def write_stack(self, stack: LastSwap | None) -> None:
        self.noted.append(stack)
        self.ask("note" if stack else "forget")

    # A listener.

    def begin(self, step: Step) -> None:
        self.ask(f"begin {step}")

    def keeps(self, processes: dict[int, str]) -> None:
        self.ask("keeps")

    def warns(self, warnings: Sequence[str]) -> None:
        self.ask("warn")

    def may_swap(self, manager: object) -> None:
        self.ask("may swap")

    def swapped(self) -> None:
        self.ask("swapped")

    def leaves(self, place: str) -> None:
        self.ask(f"leaves {place}")

    def committed(self, manager: object) -> None:
        self.ask("committed")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    difference = cast(Any, None)
    answer = Change(LayerChange([Layer("a")], [], [], []), difference, {})
    for module, name, question, value in (
        (prepare, "check_directories", "work below", []),
        (prepare, "strangers", "strangers", {}),
        (limits, "check", "limits", None),
        (writers, "check", "writers", None),
        (refusals, "check_picked", "picked", None),
        (refusals, "check_directories", "directories", None),
        (refusals, "check_whole", "whole", None),
        (transient, "begin", "begin", found),
        (refusals, "check_releases", "releases", None),
        (refusals, "check_signers", "signers", True),
        (checks, "run", "run checks", None),
        (change, "find", "find", answer),
        (exchange, "swap", "swap", ""),
        (fingerprint, "is_held_open", "held open", False),
    ):
        monkeypatch.setattr(module, name, found.step(question, value))
    monkeypatch.setattr(checks, "read", lambda *_: found.ask("read checks", found.checks))
    monkeypatch.setattr(fingerprint, "of", found.of)
    return found


def look(world: World) -> Present:
    processes = cast(list[Process], [Namespace(1, "1:1"), Namespace(2, "2:2")])
    return prepare.look(UNIT, PROPERTIES, processes, None)


def reload(world: World) -> bool:
    """All of it, as the hook does it."""
    manager, notes = cast(ServiceManager, world), cast(Notes, world)
    with prepare.prepare(manager, look(world), world) as prepared:
        return commit.commit(manager, prepared, notes, world)


def preview(world: World, *, run_checks: bool = True) -> tuple[ConfextError | None, bool]:
    """What `diff` does: why it would be refused, and whether what would change is known."""
    try:
        with prepare.prepare(
            cast(ServiceManager, world), look(world), Listener(), run_checks=run_checks, show=True
        ) as prepared:
            return prepared.refused, prepared.found is not None
    except ConfextError as error:
        return error, False


def test_order(world: World) -> None:
    assert reload(world)
    assert world.asked == ORDER
    forgotten, noted = world.noted
    assert forgotten is None
    assert noted is not None
    assert (noted.processes, noted.fingerprint, noted.settled) == (["1:1", "2:2"], a_fingerprint(), True)


@pytest.mark.parametrize("error", [ConfextError("no"), OSError(5, "Input/output error"), KeyboardInterrupt()])
# To close a connection cannot fail, and while systemd builds the stage there is nothing else that could.
@pytest.mark.parametrize("number", [number for number in range(len(ORDER)) if number != ORDER.index("disconnect")])
def test_each_step_fails_once(world: World, number: int, error: BaseException) -> None:
    """The stage is closed once, but if the swap was begun: then it is lost, and its recovery completes that."""
    world.fails, world.error = number, error
    step = ORDER[number]
    noting = step == "note" and isinstance(error, OSError)
    with contextlib.nullcontext() if noting else pytest.raises((type(error), ConfextError)):
        reload(world)
    asked = world.asked
    assert asked[: number + 1] == ORDER[: number + 1]
    after = asked[number + 1 :]
    has_stage = "wait" in asked and step != "wait"
    began = "begin swap" in asked
    assert after == (["close"] if has_stage and not began else [])
    assert asked.count("swap") == ORDER[: number + 1].count("swap")
    if began and step != "begin swap":
        # No later reload takes the old note for the truth.
        assert world.noted[0] is None


@pytest.mark.parametrize(("number", "text"), [(SWAP, "the new /etc cannot"), (SWAP + 2, "only 1 of 2 mount")])
def test_swap_that_fails_says_how_far_it_has_come(world: World, number: int, text: str) -> None:
    world.fails = number
    with pytest.raises(ConfextError, match=text) as caught:
        reload(world)
    assert (caught.value.unit, caught.value.hint) == ("", "reload again")


@pytest.mark.parametrize(
    "number",
    [n for n in range(1, ORDER.index("may swap")) if not ORDER[n].startswith(("begin ", "disconnect", "warn"))],
)
def test_diff_refuses_what_the_hook_refuses(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Each step, with the same error; and what would change is shown wherever there is a stage."""
    step = ORDER[number]
    error = ConfextError(f"{step} says no", unit=UNIT, hint="mend it")
    world.fails, world.error = number, error
    with pytest.raises(ConfextError) as caught:
        reload(world)
    assert caught.value is error
    silent = sum(1 for one in ORDER[:number] if one.startswith("begin ") or one == "warn")
    world.asked, world.fails = [], number - silent
    refused, shown = preview(world)
    assert refused is error
    judged = ORDER.index("wait") < number < ORDER.index("find")
    assert shown == judged


def test_first_refusal_counts(world: World) -> None:
    """Where the files cannot be compared either."""
    order = [one for one in ORDER if not one.startswith("begin ") and one != "warn"]
    first, second = ConfextError("first"), ConfextError("second")

    def fail(*arguments: object) -> None:
        raise second

    world.fails, world.error = order.index("run checks"), first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(change, "find", fail)
        assert preview(world) == (first, False)
    assert world.asked[-1] == "close"


def test_checks_are_not_run_unless_they_are_asked_for(world: World) -> None:
    assert preview(world, run_checks=False) == (None, True)
    assert "run checks" not in world.asked
    assert world.asked[-1] == "close"


@pytest.mark.parametrize(
    ("changed", "commands", "signed", "refused"),
    [
        ({"layers": {LAYER: "other"}}, ("true",), False, True),
        ({"layers": {LAYER: "other"}}, (), True, True),
        ({"layers": {LAYER: "other"}}, (), False, False),
        ({"settings": "other"}, ("true",), False, True),
        ({"settings": "other"}, (), True, False),
        ({"places": "other"}, ("true",), True, True),
        ({"base": "other"}, ("true",), True, False),
    ],
)
def test_what_changes_while_it_is_checked(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    commands: tuple[str, ...],
    signed: bool,
    refused: bool,
) -> None:
    world.fingerprints = [a_fingerprint(), a_fingerprint(**changed)]
    world.checks = Checks(commands=commands)
    monkeypatch.setattr(refusals, "check_signers", world.step("signers", signed))
    with pytest.raises(ConfextError, match="changed while") if refused else contextlib.nullcontext():
        assert not reload(world)  # It is not settled then.
    assert world.asked.count("close") == 1


@pytest.mark.parametrize("reason", ["clock", "held open", "another"])
def test_what_is_not_settled(world: World, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if reason == "clock":
        world.fingerprints = [a_fingerprint(newest=10**18)]
    elif reason == "held open":
        monkeypatch.setattr(fingerprint, "is_held_open", world.step("held open", True))
    else:
        world.fingerprints = [a_fingerprint(), a_fingerprint(base="other")]
    assert not reload(world)
    assert world.noted[-1] is not None
    assert not world.noted[-1].settled


def test_notes_of_other_processes_count_for_nothing() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "of", lambda *_: a_fingerprint())
        last = LastSwap(["1:1"], 1, [], a_fingerprint(), True)
        for key, expected in (("1:1", True), ("1:2", False)):
            present = prepare.look(UNIT, PROPERTIES, cast(list[Process], [Namespace(1, key)]), last)
            assert (present.is_up_to_date, present.last is last) == (expected, expected)
        for other in (last._replace(settled=False), last._replace(fingerprint=a_fingerprint(base="other"))):
            present = prepare.look(UNIT, PROPERTIES, cast(list[Process], [Namespace(1, "1:1")]), other)
            assert not present.is_up_to_date


def test_ephemeral_root_is_refused_before_anything_is_asked(world: World) -> None:
    present = look(world)._replace(properties=ServiceProperties(TOLD | {"RootEphemeral": ("b", True)}))
    world.asked.clear()
    with (
        pytest.raises(ConfextError, match="restart it instead"),
        prepare.prepare(cast(ServiceManager, world), present, world),
    ):
        pass
    assert world.asked == []


def test_who_keeps_the_old_one_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[int, str]] = []
    monkeypatch.setattr(prepare, "check_directories", world.step("work below", [7]))
    monkeypatch.setattr(prepare, "strangers", world.step("strangers", {8: "is another's"}))
    monkeypatch.setattr(world, "keeps", kept.append)
    monkeypatch.setattr(exchange, "swap", world.step("swap", "/run/x"))
    reload(world)
    assert kept == [{7: "works in a directory below /etc, where it still sees the old files", 8: "is another's"}]
    assert world.asked.count("leaves /run/x") == 2


def test_stage_is_what_is_closed() -> None:
    """The fake has what the real one has."""
    assert callable(Stage.close)
    assert {name for name in vars(Listener) if name[0] != "_"} <= {*vars(World)}
