"""Places of a real labgrid coordinator and exporter, with emulated boards behind them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from bare.conftest import MakeImage
from support.labgrid_bench import Bench, Bridge, free_port, running_bench

from qedge.runtime.errors import NoBoardError, SeveralBoardsError, UsageError
from qedge.toolkit.board import Board, load
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.lab import environment_port, real_port
from qedge.toolkit.lab.claim import Claim
from qedge.toolkit.lab.resource import Resource
from qedge.toolkit.lab.session import to_its_end

LINUX_PORT = free_port()


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Also where this pytest was started in a shell's background, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def mute() -> Iterator[socket.socket]:
    """A line at which nobody answers; whoever opens it is accepted by the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


@pytest.fixture(scope="module")
def bench(
    sim: Board, mute: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """Places: sim, twin (the same kind of board, by RFC 2217), mute, pi, gone (without an
    exporter), pair (with both boards) and sim-spare (with sim's board)."""
    folder = tmp_path_factory.mktemp("bench")
    with (
        Emulator(sim, folder / "sim.bin") as one,
        Emulator(sim, folder / "twin.bin") as two,
    ):
        raw, telnet = Bridge(one.port), Bridge(two.port, telnet=True)
        serial = {
            "sim": {"port": raw.port, "protocol": "raw"},
            "twin": {"port": telnet.port},
            "mute": {"port": mute.getsockname()[1], "protocol": "raw"},
        }
        resources = {
            name: {"NetworkSerialPort": {"host": "127.0.0.1", **fields}}
            for name, fields in serial.items()
        }
        login = {"address": "127.0.0.1", "username": "root", "port": LINUX_PORT}
        resources["pi"] = {"NetworkService": login}
        with running_bench(folder, resources) as running:
            for name in resources:
                running.add(name, f"rack/{name}/*")
            running.add("gone", "elsewhere/gone/*")
            running.add("pair", "rack/sim/*", "rack/twin/*")
            running.add("sim-spare", "rack/sim/*")
            yield running
        raw.close()
        telnet.close()


@pytest.fixture
def me(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> str:
    """This process as a client of the bench."""
    for name, value in bench.surroundings("me").items():
        if name.startswith("LG_") or name == "QEDGE_CACHE":
            monkeypatch.setenv(name, value)
    return "bench/me"


@pytest.mark.parametrize("place", ["sim", "twin"])
def test_flash_and_run_through_a_place_and_it_is_free_afterwards(
    place: str, bench: Bench, make_image: MakeImage
) -> None:
    port = ("-p", f"labgrid:{place}")
    image = str(make_image("sim"))
    code, out, said = bench.run("me", "qedge", "flash", image, "-b", "sim", *port, "--json")
    assert code == 0, said
    assert json.loads(out)["verified"] and f"labgrid:{place}" in said
    code, out, said = bench.run("me", "qedge", "run", "sim", "a", "-n", "2", *port, "--json")
    assert code == 0, said
    assert len(json.loads(out)["tokens"]) == 2
    assert bench.holder(place) == ""


def _holds_until_released(bench: Bench, process: subprocess.Popen[str], user: str) -> None:
    assert process.stdout is not None and process.stdin is not None
    assert any(line.startswith("in ") for line in iter(process.stdout.readline, ""))
    assert bench.holder("sim") == f"bench/{user}"
    process.stdin.close()


def test_of_two_clients_at_once_one_gets_the_place_and_the_other_when_it_is_free(
    bench: Bench,
) -> None:
    both = {user: bench.hold(user, "labgrid:sim") for user in ("alice", "bob")}
    with ThreadPoolExecutor() as pool:
        waits = {pool.submit(both[user].wait, 60): user for user in both}
        done, _ = wait(waits, return_when=FIRST_COMPLETED)
        ended = waits[done.pop()]
        other = "alice" if ended == "bob" else "bob"
        _holds_until_released(bench, both[other], other)
    _, complaint = both[ended].communicate()
    assert both[ended].returncode == NoBoardError.exit_code
    assert f"is held by bench/{other}" in complaint and f"you are bench/{ended}" in complaint
    assert both[other].returncode == 0
    last = bench.hold(ended, "labgrid:sim")
    assert "in " in last.communicate("")[0] and last.returncode == 0
    assert bench.holder("sim") == ""


def test_a_second_client_of_the_same_user_does_not_talk_through_the_first(
    bench: Bench,
) -> None:
    first = bench.hold("me", "labgrid:sim")
    bench.wait_for_holder("sim", "bench/me")
    code, _, said = bench.run("me", "qedge", "run", "sim", "a", "-p", "labgrid:sim")
    assert code == NoBoardError.exit_code and f"(process {first.pid})" in said
    assert bench.holder("sim") == "bench/me"
    first.communicate("")
    assert first.returncode == 0 and bench.holder("sim") == ""


def test_a_place_that_the_user_holds_already_is_used_and_kept(bench: Bench, me: str) -> None:
    bench.labgrid("me", "-p", "sim", "acquire")
    said: list[str] = []
    with real_port(load("sim"), "labgrid:sim", said.append) as port:
        assert str(port).startswith("socket://127.0.0.1:")
    assert bench.holder("sim") == me and "not released" in said[0]
    bench.labgrid("me", "-p", "sim", "release")


def test_a_reservation_is_honoured(
    bench: Bench, me: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.labgrid("alice", "reserve", "--wait", "--shell", "name=twin")
    token = made.split("LG_TOKEN=")[1].split()[0]
    with (
        pytest.raises(NoBoardError, match="is reserved for bench/alice, you are bench/me"),
        real_port(load("sim"), "labgrid:twin"),
    ):
        pass
    monkeypatch.setenv("LG_USERNAME", "alice")
    monkeypatch.setenv("LG_TOKEN", token)
    for name in ("labgrid:twin", "labgrid:+", f"labgrid:+{token}"):
        with real_port(load("sim"), name) as port:
            assert str(port).startswith("rfc2217://")
            assert bench.holder("twin") == "bench/alice"
        assert bench.holder("twin") == ""
    bench.labgrid("alice", "cancel-reservation", token)
    with (
        pytest.raises(NoBoardError, match="the reservation does not exist"),
        real_port(load("sim"), "labgrid:+"),
    ):
        pass


@pytest.mark.parametrize(("number", "code"), [(0, 8), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_a_place_is_released_after_an_error_and_after_a_signal(
    number: int, code: int, bench: Bench, mute: socket.socket
) -> None:
    process = bench.start("me", "qedge", "run", "sim", "a", "-p", "labgrid:mute")
    mute.accept()[0].close() if not number else mute.accept()
    assert bench.holder("mute") == "bench/me"
    if number:
        process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code, said
    assert bench.holder("mute") == ""


def test_what_a_killed_client_left_taken_the_next_one_releases(
    bench: Bench, mute: socket.socket, me: str
) -> None:
    process = bench.start("me", "qedge", "run", "sim", "a", "-p", "labgrid:mute")
    peer, _ = mute.accept()
    process.kill()
    process.communicate()
    peer.close()
    assert bench.holder("mute") == me
    with real_port(load("sim"), "labgrid:mute"):
        assert bench.holder("mute") == me
    assert bench.holder("mute") == ""


def test_a_place_that_was_taken_from_us_is_not_released(bench: Bench, me: str) -> None:
    with real_port(load("sim"), "labgrid:sim"):
        bench.labgrid("alice", "-p", "sim", "release", "--kick")
        bench.labgrid("alice", "-p", "sim", "acquire")
    assert bench.holder("sim") == "bench/alice"
    bench.labgrid("alice", "-p", "sim", "release")


@pytest.mark.parametrize(
    ("port", "kind", "text"),
    [
        ("labgrid:si", NoBoardError, "no such place; did you mean sim"),
        ("labgrid:gone", NoBoardError, "has no matching remote resource; start its"),
        (
            "labgrid:pair",
            SeveralBoardsError,
            "2 ways to a board: .*rack/sim.*rack/twin.*named-match",
        ),
        (
            "labgrid:pi",
            NoBoardError,
            r"needs a NetworkSerialPort, the resources are: .*Service",
        ),
        ("labgrid:sim/none", NoBoardError, "needs a NetworkSerialPort named none"),
        ("labgrid:+NONE", NoBoardError, "the reservation does not exist"),
        ("labgrid:+", UsageError, "LG_TOKEN"),
        ("labgrid:", UsageError, "LG_PLACE"),
    ],
)
def test_a_place_that_is_not_to_be_had_says_why_and_stays_free(
    port: str, kind: type[Exception], text: str, bench: Bench, me: str
) -> None:
    with pytest.raises(kind, match=text), real_port(load("sim"), port):
        pass
    assert not any(bench.holder(name) for name in ("sim", "gone", "pair", "pi"))


def test_a_board_that_two_places_share_is_refused_naming_the_other(
    bench: Bench, me: str
) -> None:
    with (
        real_port(load("sim"), "labgrid:sim"),
        pytest.raises(NoBoardError, match="its resources are used by place sim;"),
        real_port(load("sim"), "labgrid:sim-spare"),
    ):
        pass
    assert bench.holder("sim") == bench.holder("sim-spare") == ""


def test_no_coordinator_is_no_board_and_says_how_to_start_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(NoBoardError, match=f"^{address}: no labgrid coor.*labgrid-coordinator"),
        real_port(load("sim"), "labgrid:sim", coordinator=address),
    ):
        pass
    assert capfd.readouterr().err == ""


def test_a_place_that_cannot_be_released_says_how_to_do_it_by_hand(
    bench: Bench, me: str
) -> None:
    claim = Claim("sim", bench.address, load("sim"))
    to_its_end(claim.take())
    claim._address = f"127.0.0.1:{free_port()}"  # the coordinator is gone
    with pytest.raises(NoBoardError, match="not released .*labgrid-client -p sim release"):
        claim.give_back()
    with real_port(load("sim"), "labgrid:sim"):
        assert bench.holder("sim") == me
    assert bench.holder("sim") == ""


def test_an_interrupt_leaves_nothing_half_done() -> None:
    done = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        to_its_end(work())
    assert done


def test_a_board_with_linux_is_reached_by_its_network_service(bench: Bench, me: str) -> None:
    with real_port(load("pi4"), "labgrid:pi") as port:
        assert port == f"root@127.0.0.1:{LINUX_PORT}"
    with real_port(load("pi4"), "labgrid:sim") as port:  # its console will have to do
        assert str(port).startswith("socket://")


@pytest.mark.parametrize(
    ("kind", "arguments", "extra", "expected"),
    [
        ("NetworkService", {"address": "fe80::1", "username": "pi"}, {}, "pi@[fe80::1]:22"),
        ("RawSerialPort", {"port": "/dev/ttyACM3"}, {}, "/dev/ttyACM3"),
        ("NetworkSerialPort", {"host": "h", "port": 1, "protocol": "odd"}, {}, None),
        ("NetworkSerialPort", {"host": "h", "port": 1}, {"proxy_required": True}, None),
        ("NetworkService", {"address": "10.0.0.1%eth1", "username": "pi"}, {}, None),
        ("NetworkSerialPort", {"host": "h", "port": 1, "protocol": "raw"}, {}, "socket://h:1"),
        (
            "NetworkSerialPort",
            {"host": "::1", "port": "7"},
            {},
            "rfc2217://[::1]:7?ign_set_control",
        ),
    ],
)
def test_a_resource_becomes_the_port_that_reaches_it_or_says_that_none_does(
    kind: str, arguments: dict[str, object], extra: dict[str, object], expected: str | None
) -> None:
    resource = Resource("one", kind, arguments, extra)
    if expected is None:
        with pytest.raises(UsageError, match="^place: "):
            resource.port("place")
    else:
        assert resource.port("place") == expected


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("RawSerialPort", {"port": "/dev/ttyACM3"}),
        ("USBSerialPort", {"port": "/home/me/.ssh/id_ed25519"}),
        ("RawSerialPort", {"port": "spy:///dev/null?file=/tmp/hit"}),
        ("NetworkSerialPort", {"host": "/dev/ttyACM0?x=", "port": 1, "protocol": "raw"}),
        ("NetworkSerialPort", {"host": "h", "port": "1?logging=debug", "protocol": "raw"}),
        ("NetworkSerialPort", {"host": "h@x", "port": 1}),
        ("NetworkSerialPort", {"host": "h", "port": 65536}),
        ("NetworkSerialPort", {"host": "h", "port": None}),
        ("NetworkSerialPort", {"host": "-h", "port": 1}),
        ("NetworkSerialPort", {"host": "h", "port": 1, "protocol": "spy"}),
        ("NetworkService", {"address": "-oProxyCommand=x", "username": "pi"}),
        ("NetworkService", {"address": "h;reboot", "username": "pi"}),
        ("NetworkService", {"address": "h", "username": "-x"}),
        ("NetworkService", {"address": "h", "username": "pi$(reboot)"}),
        ("NetworkService", {"address": "h\x1b[2J", "username": "pi"}),
        ("NetworkService", {"address": "h", "username": "pi", "port": "22 -o x"}),
    ],
)
def test_of_a_coordinator_nothing_is_taken_but_hosts_numbers_and_users(
    kind: str, arguments: dict[str, object]
) -> None:
    resource = Resource("one", kind, arguments, {}, path="rack/sim")
    with pytest.raises(UsageError, match="^place: ") as caught:
        resource.port("place")
    assert str(caught.value).isprintable()


def test_what_a_coordinator_says_reaches_no_terminal() -> None:
    async def work() -> None:
        raise NoBoardError("held by \x1b[2J\u202eeve")

    with pytest.raises(NoBoardError, match=r"held by \\x1b\[2J\\u202eeve"):
        to_its_end(work())


def test_an_environment_s_place_is_taken_and_its_own_resource_used(
    bench: Bench, me: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LG_COORDINATOR")
    path = tmp_path / "lab.yaml"
    targets = {
        "sim": {"resources": {"RemotePlace": {"name": "sim"}}},
        "main": {"resources": {"RawSerialPort": {"port": "/dev/ttyACM7"}}},
    }
    options = {"coordinator_address": bench.address}
    path.write_text(json.dumps({"targets": targets, "options": options}))
    with environment_port(load("sim"), str(path)) as port:
        assert str(port).startswith("socket://") and bench.holder("sim") == me
    assert bench.holder("sim") == ""
    with environment_port(load("pico"), str(path)) as port:
        assert port == "/dev/ttyACM7"
    path.write_text(json.dumps({"targets": {"one": {}, "two": {}}}))
    with (
        pytest.raises(UsageError, match="its targets are one, two; name one pico or main"),
        environment_port(load("pico"), str(path)),
    ):
        pass
    with pytest.raises(UsageError, match="environment file"):
        environment_port(load("pico"), str(tmp_path / "none.yaml")).__enter__()


USER_TEST = """
def test_it_is_there(board, request):
    assert board.hello.board == "sim" and board.port.startswith("socket://")
"""


@pytest.mark.parametrize(
    ("way", "without"), [("place", ("-p", "no:labgrid")), ("environment", ())]
)
def test_the_pytest_plugin_takes_a_place_with_and_without_labgrid_s_own(
    way: str, without: tuple[str, ...], bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "test_user.py").write_text(USER_TEST)
    environment = {"targets": {"main": {"resources": {"RemotePlace": {"name": "sim"}}}}}
    (tmp_path / "lab.yaml").write_text(json.dumps(environment))
    given = (
        ("--port", "labgrid:sim")
        if way == "place"
        else ("--lg-env", str(tmp_path / "lab.yaml"))
    )
    code, out, said = bench.run(
        "me", "pytest", "-p", "no:cacheprovider", *without, "--rootdir", str(tmp_path),
        *given, "--lg-coordinator", bench.address, str(tmp_path / "test_user.py"),
        LG_COORDINATOR="127.0.0.1:1", PWD=str(tmp_path),
    )  # fmt: skip
    assert code == 0 and "1 passed" in out, out + said
    assert bench.holder("sim") == ""


def test_labgrid_s_options_without_labgrid_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hide.py").write_text("import sys\nsys.modules['labgrid'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:labgrid", "-p", "hide", "--lg-env", "x"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "pip install 'qedge[lab]'" in done.stderr
