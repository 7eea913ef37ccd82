"""The keys that a login by ssh may use: files, certificates, and an agent's, of those that are
there and can be read. What the configuration names and is not so is ignored and said, as
OpenSSH does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import asyncssh

from qedge.runtime.text import printable
from qedge.toolkit.linux.ssh_config import Settings

DEFAULTS = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")


async def keys_for(
    settings: Settings, identity: str | None, say: Callable[[str], None]
) -> tuple[dict[str, Any], Any]:
    """asyncssh's options for a login, and a connection to an agent that they need, or None.
    identity: a file that goes before the configuration's."""
    if identity is not None:  # an error in it is the caller's to see
        ignore = bool(settings.agent)  # the agent may have it
        options: dict[str, Any] = {"client_keys": [identity], "ignore_encrypted": ignore}
        certificates = [one for one in settings.certificates if os.path.isfile(one)]
        own = [_public(identity)] if settings.identities_only else []
        return {**options, **_of_agent(settings, own), "client_certs": certificates}, None
    said = settings.identities is not None
    paths = settings.identities if settings.identities is not None else _defaults()
    keys: list[str] = []
    public: list[bytes | None] = []
    for path in paths:
        wrong = _wrong(path, bool(settings.agent))
        public.append(_public(path))
        if not wrong:
            keys.append(path)
        elif said and wrong != "closed" and public[-1] is None:
            say(f"{printable(path)}: {wrong}; this identity file is ignored")
    options = {"client_certs": _certificates(settings, say), **_of_agent(settings, public)}
    if keys:
        return {**options, "client_keys": keys}, None
    # asyncssh would take the user's usual keys where none is given, and no agent's otherwise
    agent = None
    pairs: list[Any] = []
    if options["agent_path"]:
        with contextlib.suppress(OSError, asyncssh.Error, ValueError):
            agent = await asyncssh.connect_agent(options["agent_path"])
            pairs = list(await agent.get_keys(options.pop("agent_identities", None)))
    options.pop("agent_identities", None)
    return {**options, "client_keys": pairs or None}, agent


def _of_agent(settings: Settings, public: list[bytes | None]) -> dict[str, Any]:
    """Which agent, and which of its keys."""
    if not settings.identities_only:
        return {"agent_path": settings.agent, "agent_identities": None}
    wanted = [one for one in public if one is not None]
    return {"agent_path": settings.agent if wanted else "", "agent_identities": wanted or None}


def _defaults() -> tuple[str, ...]:
    paths = (os.path.expanduser(f"~/.ssh/{name}") for name in DEFAULTS)
    return tuple(path for path in paths if os.path.isfile(path))


def _wrong(path: str, agent: bool) -> str:
    """Why a file is no key to log in with; `closed`: it has a passphrase, and an agent may
    have it."""
    try:
        asyncssh.read_private_key(path)
    except OSError as error:
        return (error.strerror or "cannot be read").lower()
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
        if "passphrase" in str(error).lower():
            return "closed" if agent else "has a passphrase (put it into an agent: ssh-add)"
        return "is not a private key"
    except ValueError:
        return "is not a private key"
    return ""


def _public(path: str) -> bytes | None:
    """The public key of an identity, by which an agent knows it."""
    for place in (f"{path}.pub", path):
        with contextlib.suppress(OSError, ValueError, asyncssh.Error):
            return asyncssh.read_public_key(place).public_data
    with contextlib.suppress(OSError, ValueError, asyncssh.Error):
        return asyncssh.read_private_key(path).public_data
    return None


def _certificates(settings: Settings, say: Callable[[str], None]) -> list[str]:
    found = []
    for path in settings.certificates:
        try:
            asyncssh.read_certificate(path)
        except (OSError, ValueError, asyncssh.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            say(f"{printable(path)}: {printable(reason)}; this certificate is ignored")
        else:
            found.append(path)
    return found
