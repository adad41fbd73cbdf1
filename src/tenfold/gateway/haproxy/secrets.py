"""Files that nobody else may read, written as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from tenfold.gateway.config import Config


def secret(path: str, text: str) -> None:
    """Put ``text`` where ``path`` is, for this user alone."""
    part = f"{path}.part"
    Path(part).unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def write_certificates(config: Config, directory: str) -> None:
    """HAProxy wants a certificate and its key in one file, and a list of those and their names. Raises `OSError`."""
    lines = []
    for number, each in enumerate(config.gateway.tls):
        pem = f"{directory}/listen-{number}.pem"
        secret(pem, _both(each.certificate, each.key))
        lines.append(" ".join([pem, *each.names]))
    if lines:
        secret(f"{directory}/certificates", "\n".join(lines) + "\n")
    for pool in config.pools:
        if pool.tls is not None and pool.tls.certificate is not None and pool.tls.key is not None:
            secret(f"{directory}/pool-{pool.name}.pem", _both(pool.tls.certificate, pool.tls.key))


def _both(certificate: str, key: str) -> str:
    return f"{Path(certificate).read_text(encoding='ascii')}\n{Path(key).read_text(encoding='ascii')}"
