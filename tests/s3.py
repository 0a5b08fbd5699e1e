"""An S3 server on loopback (moto's), a client that is not iretrace's, and a proxy that breaks off or is slow."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY: Final = "AKIAIRETRACETESTS"
SECRET: Final = "not/A+Secret/of/anybody/0123456789"  # noqa: S105 - made up


def environment(endpoint: str) -> dict[str, str]:
    """What a user sets to reach an S3-compatible store."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextlib.contextmanager
def nobody_listens() -> Iterator[str]:
    """An endpoint on loopback that refuses, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


class Server:
    """A server in a process of its own, which holds its objects in memory."""

    def __init__(self) -> None:
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed by stop
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        until(self._says_its_port, "the server says where it listens", self._process)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}),
        )
        until(self._answers, "the server answers", self._process)

    def _says_its_port(self) -> bool:
        found = re.search(r"Running on http://127\.0\.0\.1:(\d+)", Path(self._log.name).read_text())
        self.port = int(found[1]) if found else 0
        return self.port != 0

    def _answers(self) -> bool:
        try:
            return self._ask("GET", "/moto-api/") == 200
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: str = "") -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "text/plain"})
            return connection.getresponse().status

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def keys(self, bucket: str) -> list[str]:
        """Keys of all objects of a bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def read(self, bucket: str, key: str) -> bytes:
        """An object's content."""
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    @contextlib.contextmanager
    def asking_who(self) -> Iterator[None]:
        """Refuse credentials that it does not know, which are all."""
        assert self._ask("POST", "/moto-api/reset-auth", "0") == 200
        try:
            yield
        finally:
            assert self._ask("POST", "/moto-api/reset-auth", "inf") == 200

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        self.client.close()


class Proxy:
    """Stands before a server and spoils what it answers.

    Args:
        port: of the server.
        cut_after: answers of a connection end after so many bytes; ``None``: never.
        dies: after the first such end nothing listens any more.
        silent: connections are accepted, and nothing is said.
        pace_s: pause after each 16 KiB.
    """

    def __init__(
        self, port: int, *, cut_after: int | None = None, dies: bool = False, silent: bool = False, pace_s: float = 0
    ) -> None:
        self._port, self._cut_after, self._dies, self._silent, self._pace_s = port, cut_after, dies, silent, pace_s
        self.cuts = 0
        self.sent = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                self._open.append(here)
                if self._silent:
                    continue
                there = socket.create_connection(("127.0.0.1", self._port))
                self._open.append(there)
                threading.Thread(target=self._copy, args=(here, there, False), daemon=True).start()
                threading.Thread(target=self._copy, args=(there, here, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, answer: bool) -> None:  # noqa: FBT001
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                if answer and self._cut_after is not None and passed + len(data) > self._cut_after:
                    target.sendall(data[: self._cut_after - passed])
                    self.cuts += 1
                    if self._dies:
                        self.stop()
                    break
                target.sendall(data)
                passed += len(data)
                if answer:
                    self.sent += len(data)
                    time.sleep(self._pace_s)  # no wait: how slow it is
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Nothing listens any more, and nothing is said on what is open."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
