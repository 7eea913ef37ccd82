"""A server, and a user's home, for tests of the way to a board by ssh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh.server import Server, start, stop


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = start(tmp_path_factory.mktemp("sshd"))
    yield found
    stop(found)


@pytest.fixture
def server(running_server: Server) -> Server:
    running_server.log_in_by()
    return running_server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user of this machine whose name has a space: nothing is in it."""
    place = tmp_path / "a user"
    (place / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(place))
    for name in ("SSH_AUTH_SOCK", "XDG_DATA_HOME", "XDG_CACHE_HOME", "QEDGE_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "qedge.toolkit.linux.ssh_config.SYSTEM_FILE", tmp_path / "etc" / "ssh_config"
    )
    return place
